"""Everything that can be wrong with a folder: one message with clip, path and expectation."""

import os
import struct
import zlib

import layouts
import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds
from PIL import Image
from prepared_clips import clips_of, everything, pixels

from ssp_jax.errors import UserError
from tfds_builders.facts import read_dataset_facts
from tfds_builders.prepare import main, prepare

NAME = "-abcdefghij"  # S4, test, dog_barking
UID = "BBBBBBBBBBB_0_10000"  # AVSS, test, v2


def s4_file(prepared, kind, number=None):
    below = prepared.source / f"Single-source/s4_data/{kind}/test/dog_barking"
    return below / (f"{NAME}.wav" if number is None else f"{NAME}/{NAME}_{number}.png")


def refusal(prepared, **options):
    """The message, after making sure that nothing was written."""
    with pytest.raises(UserError) as error:
        prepared.run(**options)
    left = list(prepared.prepared_dir.rglob("dataset*.json")) + list(
        prepared.prepared_dir.rglob("incomplete*")
    )
    assert not left
    return str(error.value)


def assert_names(message, clip, path, *words):
    """One line of the message holds the clip, the path and what was found and expected."""
    lines = [line for line in message.splitlines() if f"clip {clip}:" in line]
    matching = [line for line in lines if str(path) in line and all(w in line for w in words)]
    assert matching, message


def test_clip_without_sound(s4):
    path = s4_file(s4, "audio_wav")
    path.unlink()
    assert_names(refusal(s4), NAME, path, "no audio")


def test_missing_frame(s4):
    path = s4_file(s4, "visual_frames", 3)
    path.unlink()
    assert_names(refusal(s4), NAME, path, "missing frame 3 of 5")


def test_missing_mask(ms3):
    path = ms3.source / "Multi-sources/ms3_data/gt_masks/test/baby_dog_2_1/baby_dog_2_1_5.png"
    path.unlink()
    assert_names(refusal(ms3), "baby_dog_2_1", path, "missing mask 5 of 5")


def test_missing_folder_of_a_clip_is_one_line(avss):
    (avss.source / "v2" / UID).rename(avss.source / "elsewhere")
    message = refusal(avss)
    assert_names(message, UID, avss.source / "v2" / UID, "none of its 21 files")
    assert message.count(f"clip {UID}") == 1


def test_truncated_jpeg(avss):
    path = avss.source / "v2" / UID / "frames/4.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    assert_names(refusal(avss), UID, path, "frame 5 of 10", "truncated", "expected a whole JPEG")


@pytest.mark.parametrize("content", [b"", b"this is no picture", None])
def test_unreadable_png(s4, content):
    path = s4_file(s4, "gt_masks", 2)
    path.write_bytes(path.read_bytes()[:60] if content is None else content)
    assert_names(refusal(s4), NAME, path, "mask 2 of 5", "unreadable picture")


def test_mask_of_another_size_than_its_frame(s4):
    path = s4_file(s4, "gt_masks", 4)
    layouts.write_picture(path, np.zeros((8, 12), np.uint8))
    assert_names(refusal(s4), NAME, path, "12 x 8 pixels", "24 x 16")


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.full((16, 24), 127, np.uint8), "the values 127; expected 0 and 255"),
        (np.eye(16, 24, dtype=np.uint8) * 254 + 1, "both 1 and 255"),
        (layouts.picture_of("colours"), "mask in colour"),
        (np.zeros((16, 24), np.uint16), "mode I;16"),
    ],
)
def test_mask_that_is_not_binary(s4, mask, words):
    path = s4_file(s4, "gt_masks", 1)
    layouts.write_picture(path, mask)
    assert_names(refusal(s4), NAME, path, words)


def test_unknown_colour_is_named_and_becomes_background_on_request(avss):
    path = avss.source / "v2" / UID / "labels_rgb/6.png"
    colours = np.asarray(Image.open(path)).copy()
    colours[2, 3:5] = (1, 2, 3)
    layouts.write_picture(path, colours)
    assert_names(refusal(avss), UID, path, "unknown colour (1, 2, 3) in 2 pixels")

    folder = avss.run(allow_missing=True)
    expected = layouts.class_map_of(f"{UID}/6", size=layouts.size_of(UID)).copy()
    expected[2, 3:5] = 0
    np.testing.assert_array_equal(pixels(clips_of(folder, "test_v2")[UID].labels[6]), expected)
    facts = read_dataset_facts(folder)
    assert facts.warning_counts["unknown_colour"] == 1
    assert not facts.left_out


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (np.zeros(0, np.int16), "empty sound: its header says 0 samples, the file holds "),
        (np.zeros(15_599, np.int16), "15599 samples at 16 kHz, expected at least 15600"),
        (np.full(80_000, np.nan, np.float32), "not finite"),
    ],
)
def test_sound_that_is_empty_short_or_not_finite(s4, samples, words):
    path = s4_file(s4, "audio_wav")
    soundfile.write(path, samples, 16_000, subtype="FLOAT")
    assert_names(refusal(s4), NAME, path, words)


@pytest.mark.parametrize("content", [b"", b"RIFF, but no more"])
def test_file_that_is_no_sound(s4, content):
    path = s4_file(s4, "audio_wav")
    path.write_bytes(content)
    assert_names(refusal(s4), NAME, path, "unreadable sound", "expected a wav file")


def test_frames_cut_anew_from_second_6(s4):
    name = "d-adbXZYHxI"
    path = s4.source / f"Single-source/s4_data/visual_frames/train/horse_clip-clop/{name}"
    path = path / f"{name}_5.png"
    path.unlink()
    assert_names(refusal(s4), name, path, "second 6", "--repeat_last_frame")


def test_everything_is_told_at_once(s4, capsys):
    s4_file(s4, "audio_wav").unlink()
    s4_file(s4, "visual_frames", 2).unlink()
    s4_file(s4, "gt_masks", 3).write_bytes(b"no picture")
    other = s4.source / "Single-source/s4_data/visual_frames/val/helicopter/0TQQn_S8ZDM"
    (other / "0TQQn_S8ZDM_1.png").unlink()
    command = ["--benchmark=s4", f"--source={s4.source}", f"--prepared_dir={s4.prepared_dir}"]
    assert main(command) == 1
    message = capsys.readouterr().err
    assert "4 problems" in message
    assert message.count(f"clip {NAME}:") == 3
    assert message.count("clip 0TQQn_S8ZDM:") == 1
    assert "Traceback" not in message


def test_long_lists_are_cut_and_written_in_full(s4):
    clips = [layouts.S4Clip(f"clip{i:07d}") for i in range(60)]
    layouts.write_table(
        s4.source / "Single-source/s4_meta_data.csv",
        "name,start,category,split",
        [(c.name, c.start, c.category, c.split) for c in clips],
    )
    message = refusal(s4)
    assert message.count("clip clip00000") == 50
    assert "... and 10 more" in message
    (listed,) = s4.prepared_dir.rglob("*.problems.txt")
    assert str(listed) in message
    assert listed.read_text().count("clip00000") >= 60


def test_partial_copy_says_what_was_left_out(s4, capsys):
    path = s4_file(s4, "audio_wav")
    path.unlink()
    command = ["--benchmark=s4", f"--source={s4.source}", f"--prepared_dir={s4.prepared_dir}"]
    assert main([*command, "--allow_missing"]) == 0
    assert "test 0 clips (1 clips left out)" in capsys.readouterr().out
    folder = s4.run(allow_missing=True)
    facts = read_dataset_facts(folder)
    assert facts.splits == {"train": 3, "val": 1, "test": 0}
    assert set(everything(folder)) == {"train", "val"}
    assert set(tfds.builder_from_directory(folder).info.splits) == {"train", "val"}
    (left_out,) = facts.left_out
    assert (left_out["clip"], left_out["path"]) == (NAME, str(path))
    assert left_out["kind"] == "missing_sound"


def test_nothing_whole_is_no_data_set(tmp_path):
    source = layouts.write_s4(tmp_path / "s4", layouts.S4_CLIPS[:1])
    (wav,) = source.rglob("*.wav")
    wav.unlink()
    with pytest.raises(UserError, match="not a single whole clip"):
        prepare("s4", source, tmp_path / "p", allow_missing=True, progress=False)
    assert not list(tmp_path.glob("p/**/dataset*.json"))


# Of strangers.


def claimed_png(width, height):
    """A PNG whose header alone is large."""
    parts = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b"x")
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (*parts, (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (claimed_png(30_000, 30_000), "900000000 pixels"),
        (claimed_png(10_000, 10_000), "10000 x 10000 pixels are too many"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 16\n%%EndComments\n", "cannot identify"),
    ],
)
def test_pictures_that_are_huge_or_would_run_a_program(s4, content, words):
    path = s4_file(s4, "visual_frames", 2)
    path.write_bytes(content)
    assert_names(refusal(s4), NAME, path, words)


def test_a_changed_pixel_of_a_png_shows(s4):
    path = s4_file(s4, "gt_masks", 2)
    # Stored, not compressed: a flipped bit is another valid stream.
    Image.open(path).save(path, compress_level=0)
    whole = bytearray(path.read_bytes())
    whole[whole.index(b"IDAT") + 60] ^= 255
    path.write_bytes(whole)
    assert_names(refusal(s4), NAME, path, "unreadable picture")


def test_what_is_no_file_is_not_read(s4):
    frame, sound = s4_file(s4, "visual_frames", 2), s4_file(s4, "audio_wav")
    for path in (frame, sound):
        path.unlink()
        os.mkfifo(path)  # would wait for ever
    message = refusal(s4)
    assert_names(message, NAME, frame, "not a file")
    assert_names(message, NAME, sound, "not a file")


def test_hours_of_sound_in_few_bytes(s4):
    path = s4_file(s4, "audio_wav")
    with soundfile.SoundFile(path, "w", 8000, 1, format="FLAC", subtype="PCM_16") as file:
        for _ in range(10):
            file.write(np.zeros(1 << 23, np.int16))
    assert path.stat().st_size < 1 << 20
    assert_names(refusal(s4), NAME, path, "83886080 samples", "expected at most 67108864")


# Tables.


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,begin,category,split\na,0,b,train\n", "missing column start"),
        ("", "found an empty file"),
        ("name,start,category,split\n", "not a single row"),
        ("name,start,category,split\na,0,b\n", "line 2 has too few columns"),
        ("name,start,category,split\na,0,b,training\n", "split 'training', expected train, val"),
        ("name,start,category,split\na,soon,b,train\n", "start 'soon', expected a whole second"),
        ("name,start,category,split\na,0,b,val\na,0,b,val\n", "listed 2 times"),
        ("name,start,category,split\n\xff", "cannot be read as a csv file"),
    ],
)
def test_bad_table(s4, text, words):
    path = s4.source / "Single-source/s4_meta_data.csv"
    path.write_bytes(text.encode("latin-1"))
    message = refusal(s4)
    assert words in message
    assert str(path) in message


@pytest.mark.parametrize(
    "uid", ["../../outside", "/etc", "..", ".", "", "a\\b", "v1m/x", "x" * 300]
)
@pytest.mark.parametrize("allow_missing", [False, True])
def test_names_that_lead_out_of_the_folder_are_refused(avss, uid, allow_missing):
    clips = [*layouts.SEMANTIC_CLIPS, layouts.SemanticClip("vid", uid, "dog", "train", "v2")]
    rows = [(c.vid, c.uid, 0, 0, c.a_obj, c.split, c.label) for c in clips]
    header = "vid,uid,s_min,s_sec,a_obj,split,label"
    layouts.write_table(avss.source / "metadata.csv", header, rows)
    message = refusal(avss, allow_missing=allow_missing)
    assert f"line {len(rows) + 1}: uid {uid!r}" in message
    assert "1 problem (" in message


def test_category_that_leads_out_of_the_folder_is_refused(s4):
    rows = [("abcdefghijk", 0, "../../../outside", "train")]
    path = s4.source / "Single-source/s4_meta_data.csv"
    layouts.write_table(path, "name,start,category,split", rows)
    assert "category '../../../outside'" in refusal(s4)


@pytest.mark.parametrize(
    ("text", "words"),
    [("[1, 2]", "names and integers"), ("{", "Expecting"), ('{"a": 1, "b": 7}', "1..2")],
)
def test_bad_class_table(avss, text, words):
    path = avss.source / "label2idx.json"
    path.write_text(text)
    message = refusal(avss)
    assert words in message
    assert str(path) in message


# Folders.


def test_folder_of_another_benchmark_says_which(s4, ms3, avss):
    cases = [("avss", s4, "s4"), ("s4", avss, "avss"), ("ms3", avss, "avss")]
    for wanted, found, looks_like in cases:
        found.benchmark = wanted
        assert f"that is benchmark {looks_like}" in refusal(found)
    ms3.benchmark, ms3.source = "s4", ms3.source / "Multi-sources"
    assert "that is benchmark ms3" in refusal(ms3)


def test_folder_that_is_none(s4, tmp_path):
    folder = s4.run()
    archive = tmp_path / "s4_data.tar.gz"
    archive.write_bytes(b"")
    (tmp_path / "empty").mkdir()
    (tmp_path / "zips").mkdir()
    (tmp_path / "zips" / "v2.zip").write_bytes(b"")
    (tmp_path / "no_table" / "v1s").mkdir(parents=True)
    cases = {
        tmp_path / "nowhere": "no such folder",
        archive: "an archive: unpack it first",
        tmp_path / "empty": "It is empty",
        tmp_path / "zips": "unpack them first (v2.zip)",
        tmp_path / "no_table": "no metadata.csv: copy that file here",
        folder: "a prepared data set",
    }
    for source, words in cases.items():
        with pytest.raises(UserError) as error:
            prepare("avss", source, tmp_path / "other", progress=False)
        assert words in str(error.value)
        assert str(source) in str(error.value)
        assert "expected" in str(error.value)


def test_data_folder_that_was_not_unpacked(s4):
    data = s4.source / "Single-source/s4_data"
    data.rename(data.with_name("elsewhere"))
    assert "s4_data/visual_frames is missing" in refusal(s4)


def test_unknown_benchmark_and_frame_size(s4):
    s4.benchmark = "s5"
    assert "no benchmark called 's5'; there are s4, ms3, avss" in refusal(s4)
    s4.benchmark = "s4"
    assert "frame_size: expected 16..4096" in refusal(s4, frame_size=4)
