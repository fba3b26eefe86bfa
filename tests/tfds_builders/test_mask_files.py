"""One mask, saved in every way that Pillow has: read back equal, or refused in words."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from tfds_builders.classes import palette
from tfds_builders.folders import is_macs
from tfds_builders.mask_files import (
    binary_labels,
    class_map,
    colour_labels,
    coloured_truth,
    mask_file,
)
from tfds_builders.pictures import decoded_picture, open_picture, stored_frame

MASK = np.kron(np.array([[0, 1], [1, 1]], np.uint8), np.ones((3, 4), np.uint8))
VOC = palette(256)


def saved(picture, **options):
    """The file as it is read."""
    buffer = io.BytesIO()
    picture.save(buffer, "png", **options)
    return mask_file(decoded_picture(buffer.getvalue()), buffer.getvalue())


def in_palette(index, colours):
    picture = Image.fromarray(index.astype(np.uint8))
    picture.putpalette(np.asarray(colours, np.uint8).tobytes())
    return picture


GREY = Image.fromarray(MASK * 255)
ADAPTIVE = Image.Palette.ADAPTIVE


@pytest.mark.parametrize(
    "picture",
    [
        GREY.quantize(2),
        GREY.convert("P", palette=ADAPTIVE, colors=2),
        in_palette(1 - MASK, [[255] * 3, [0] * 3]),
        GREY.convert("P"),
        GREY.convert("1"),
        GREY.convert("LA"),
        GREY.convert("RGBA"),
        in_palette(MASK, VOC[:2]),
        Image.merge("LA", (GREY, GREY)),
    ],
)
def test_a_binary_mask_is_what_a_viewer_shows(picture):
    np.testing.assert_array_equal(binary_labels(saved(picture))[0], MASK)


WHITE, BLACK = Image.new("L", GREY.size, 255), Image.new("L", GREY.size, 0)


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (Image.merge("LA", (WHITE, GREY)), "is the mask in the alpha channel"),
        (Image.merge("RGBA", (BLACK, BLACK, BLACK, GREY)), "is the mask in the alpha channel"),
        (Image.merge("LA", (GREY, GREY.point(lambda v: 255 - v))), "alpha channel says something"),
        (in_palette(MASK, [[255] * 3] * 2), "one and the same colour"),
        (in_palette(MASK, [[9, 9, 9], [255, 0, 0]]), "palette is in colour"),
        (in_palette(MASK * 3, VOC), "class index 3 in AVSBench's colours"),
        (Image.fromarray(MASK.astype(np.uint16) * 65535), "mode I;16"),
    ],
)
def test_masks_that_are_not_in_their_colours_are_refused(picture, words):
    with pytest.raises(ValueError, match=words):
        binary_labels(saved(picture))


def test_transparent_indices_of_a_palette_are_no_mask():
    with pytest.raises(ValueError, match="one and the same colour"):
        saved(in_palette(MASK, [[255] * 3] * 2), transparency=b"\0\xff")
    with pytest.raises(ValueError, match="alpha channel"):
        saved(GREY, transparency=255)


def test_indices_in_the_grey_ramp_stay_indices():
    labels = MASK * 64
    picture = Image.fromarray(labels).convert("P")
    np.testing.assert_array_equal(class_map(saved(picture), 71), labels)
    with pytest.raises(ValueError, match="may be class indices"):
        coloured_truth(saved(picture), 71)
    with pytest.raises(ValueError, match="class indices or colours"):
        class_map(saved(Image.fromarray(VOC[MASK * 56]).quantize(2)), 71)


def test_colours_mixed_by_resizing_are_told_in_one_line():
    picture = Image.fromarray(VOC[MASK * 5]).resize((37, 29), Image.Resampling.BILINEAR)
    unknown = colour_labels(saved(picture), 71)[1]
    assert "mixed by resizing" in unknown
    assert "(" not in unknown.replace("(or by JPEG)", "")


def test_a_16_bit_grey_frame_keeps_its_upper_bits():
    values = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16) | 3
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "png")
    stored = decoded_picture(
        stored_frame(decoded_picture(buffer.getvalue()), buffer.getvalue(), None)
    )
    np.testing.assert_array_equal(np.asarray(stored), np.stack([values // 256] * 3, -1))


def test_messages_name_no_address_in_memory(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(path, "jpeg")
    with pytest.raises(ValueError, match="its bytes are of a JPEG file"):
        open_picture(path, formats=("PNG",))
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot identify") as error:
        open_picture(path)
    assert "0x" not in str(error.value)
    assert is_macs("._a.png")
    assert is_macs("__MACOSX")


WAYS = ("1", "L", "P", "LA", "RGB", "RGBA", "I;16", "adaptive", "quantised")


@settings(max_examples=200, deadline=None)
@given(
    arrays.arrays(np.uint8, (3, 5), elements=st.integers(0, 1)),
    st.sampled_from((*WAYS, "any palette", "alpha")),
    st.permutations(range(256)),
)
def test_any_binary_mask_is_read_equal_or_refused(mask, way, order):
    grey = Image.fromarray(mask * 255)
    if way == "any palette":  # order[i]: where grey value i lies
        colours = np.zeros((256, 3), np.uint8)
        colours[order] = np.arange(256)[:, None]
        picture = in_palette(np.asarray(order)[mask * 255], colours)
    elif way == "alpha":
        # Opaque or transparent everywhere shows a picture of one colour, which is what is read.
        picture = Image.merge("LA", (Image.new("L", grey.size, 255), grey))
        if mask.all():
            return
    elif way == "I;16":
        picture = Image.fromarray(mask.astype(np.uint16) * 65535)
    elif way == "adaptive":
        picture = grey.convert("P", palette=ADAPTIVE, colors=2)
    else:
        picture = grey.quantize(2) if way == "quantised" else grey.convert(way)
    try:
        labels = binary_labels(saved(picture))[0]
    except ValueError:
        if way not in ("alpha", "I;16"):
            raise
        return
    np.testing.assert_array_equal(labels, mask)


@settings(max_examples=200, deadline=None)
@given(
    arrays.arrays(np.uint8, (3, 5), elements=st.sampled_from([0, 1, 7, 56, 63, 64, 70])),
    st.sampled_from(["L", "P", "LA", "colours", "quantised", "quantised grey", "any palette"]),
    st.permutations(range(71)),
)
def test_any_class_map_is_read_equal_or_refused(labels, way, order):
    grey, colours = Image.fromarray(labels), Image.fromarray(VOC[labels])
    picture = {
        "colours": lambda: colours,
        "quantised": lambda: colours.quantize(16),
        "quantised grey": lambda: grey.quantize(16),
        "any palette": lambda: in_palette(np.asarray(order)[labels], VOC[np.argsort(order)]),
    }.get(way, lambda: grey.convert(way))()
    try:
        found = class_map(saved(picture), 71)
    except ValueError:
        if way not in ("quantised", "quantised grey", "any palette"):
            raise
        return
    np.testing.assert_array_equal(found, labels)
