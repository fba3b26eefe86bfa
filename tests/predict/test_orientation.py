"""Pictures are turned and mirrored as a player shows them."""

import itertools
from fractions import Fraction

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from av.video.reformatter import VideoReformatter
from hypothesis import given, settings
from hypothesis import strategies as st
from made_videos import grey, write_video

from ssp_jax.predict.orientation import shown_size, upright
from ssp_jax.predict.reading import VideoReader

# (a, b, c, d): (x, y) goes to (a x + c y, b x + d y), y downwards; all eight.
ORIENTATIONS = [
    (x, 0, 0, y) if straight else (0, x, y, 0)
    for straight, x, y in itertools.product((True, False), (1, -1), (1, -1))
]


def asymmetric() -> np.ndarray:
    """Of 96 x 64 pixels, brighter to the right and, more so, downwards: no symmetry."""
    picture = grey(0)
    picture[:] = (np.arange(96) + 2 * np.arange(64)[:, None])[..., None]
    return picture


def by_the_matrix(picture, matrix):
    """Each pixel put where the matrix says, as ISO 14496-12 has it."""
    a, b, c, d = matrix
    y, x = np.indices(picture.shape[:2])
    column, row = a * x + c * y, b * x + d * y
    column, row = column - column.min(), row - row.min()
    shown = np.zeros((row.max() + 1, column.max() + 1, 3), np.uint8)
    shown[row, column] = picture
    return shown


def set_matrix(path, matrix):
    """Write a display matrix into the header of an mp4's only track."""
    content, (a, b, c, d) = path.read_bytes(), matrix
    place = content.index(b"tkhd") + 4 + 40
    one = 1 << 16
    words = np.array([a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30], ">i4").tobytes()
    path.write_bytes(content[:place] + words + content[place + 36 :])
    return path


def copied(path, target, filters=None):
    """The same packets in another container, by way of a filter of bit streams."""
    with av.open(str(path)) as source, av.open(str(target), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        context = filters and BitStreamFilterContext(filters, source.streams.video[0])
        for packet in source.demux(video=0):
            for part in context.filter(packet) if context else [packet]:
                if part.size:
                    part.stream = stream
                    out.mux(part)
    return target


def assert_shown(path, expected):
    video = VideoReader(path)
    (frame,) = next(video.clips()).frames
    assert video.size == expected.shape[1::-1]
    np.testing.assert_allclose(frame, expected, atol=6)


@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_all_eight_orientations_are_shown_as_the_matrix_says(tmp_path, matrix):
    path = write_video(tmp_path / "a.mp4", [asymmetric()] * 25)
    set_matrix(path, matrix)
    assert_shown(path, by_the_matrix(asymmetric(), matrix))


@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_other_containers_carry_them_too(tmp_path, matrix):
    """QuickTime's by its header; MPEG-TS by a message within H.264, its angle anticlockwise."""
    straight, (a, b, c, d) = matrix[0] != 0, matrix
    path = set_matrix(write_video(tmp_path / "a.mov", [asymmetric()] * 25), matrix)
    assert_shown(path, by_the_matrix(asymmetric(), matrix))
    # FFmpeg mirrors first, and turns then.
    mirrored = (a * d - b * c) < 0
    if mirrored:
        a, b = -a, -b
    degrees = (0 if a > 0 else 180) if straight else (90 if b < 0 else 270)
    words = f"h264_metadata=display_orientation=insert:rotate={degrees}"
    words += ":flip=horizontal" if mirrored else ""
    plain = write_video(tmp_path / "plain.mp4", [asymmetric()] * 25)
    annexb = copied(plain, tmp_path / "plain.ts")
    # FFmpeg knows it of the picture that the message comes with.
    video = VideoReader(copied(annexb, tmp_path / "b.ts", words))
    first = video.upright(next(video.pictures()).picture, VideoReformatter())
    np.testing.assert_allclose(first, by_the_matrix(asymmetric(), matrix), atol=6)


def test_quarter_turns_are_those_of_ffmpegs_own_filters(tmp_path):
    """By the filters that FFmpeg's program puts before a video of such a matrix."""
    for matrix, filters in (
        ((0, 1, -1, 0), ["transpose=clock"]),
        ((0, -1, 1, 0), ["transpose=cclock"]),
        ((0, 1, 1, 0), ["transpose=cclock_flip"]),
        ((0, -1, -1, 0), ["transpose=clock_flip"]),
        ((-1, 0, 0, 1), ["hflip"]),
        ((1, 0, 0, -1), ["vflip"]),
        ((-1, 0, 0, -1), ["hflip", "vflip"]),
    ):
        graph = av.filter.Graph()
        last = graph.add_buffer(width=96, height=64, format="rgb24", time_base=Fraction(1, 25))
        for number, words in enumerate([*filters, "buffersink"]):
            name, _, argument = words.partition("=")
            node = graph.add(name, argument or None, name=f"n{number}")
            last.link_to(node)
            last = node
        graph.configure()
        source = av.VideoFrame.from_ndarray(asymmetric(), format="rgb24")
        source.pts = 0
        graph.push(source)
        expected = graph.pull().to_ndarray(format="rgb24")
        np.testing.assert_array_equal(expected, by_the_matrix(asymmetric(), matrix))


class _Picture:
    """A decoded picture with a display matrix, as PyAV has it."""

    def __init__(self, pixels, matrix):
        a, b, c, d = matrix
        self._frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        words = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], np.int32)
        self.side_data = {"DISPLAYMATRIX": words.tobytes()}
        self.width, self.height = self._frame.width, self._frame.height


@settings(max_examples=60, deadline=None)
@given(
    matrix=st.sampled_from(ORIENTATIONS),
    scale=st.integers(1, 1 << 16),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_any_picture_by_any_matrix(matrix, scale, height, width, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    picture = _Picture(pixels, [scale * word for word in matrix])

    class Unchanged:
        def reformat(self, given, width, height, **how):
            return given._frame

    expected = by_the_matrix(pixels, matrix)
    np.testing.assert_array_equal(upright(picture, Unchanged()), expected)
    assert shown_size(picture) == expected.shape[1::-1]


def test_a_picture_without_a_matrix_stays_as_it_is():
    pixels = asymmetric()
    picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    np.testing.assert_array_equal(upright(picture, VideoReformatter()), pixels)
