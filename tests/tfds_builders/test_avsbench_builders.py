"""From a folder as downloaded to prepared clips, for S4, MS3 and AVSS."""

import shutil

import layouts
import numpy as np
import pytest
import soundfile
from PIL import Image
from prepared_clips import clips_of, pixels

from tfds_builders.classes import AVSS_CLASSES
from tfds_builders.facts import read_dataset_facts
from tfds_builders.prepare import prepare


def test_s4_clip_holds_the_files_own_bytes_and_binary_labels(s4):
    folder = s4.run()
    data = s4.source / "Single-source" / "s4_data"
    val = clips_of(folder, "val")["0TQQn_S8ZDM"]
    files = [
        data / f"visual_frames/val/helicopter/{val.uid}/{val.uid}_{n}.png" for n in range(1, 6)
    ]
    assert val.frames == tuple(file.read_bytes() for file in files)
    for number, label in enumerate(val.labels, 1):
        expected = layouts.binary_mask_of(f"s4/mask/{val.uid}_{number}.png")
        np.testing.assert_array_equal(pixels(label), expected)
    np.testing.assert_array_equal(val.waveform, layouts.sound_of(val.uid, 5))
    assert (val.subset, val.category, val.annotated.tolist()) == ("v1s", "helicopter", [True] * 5)


def test_s4_training_clips_are_annotated_in_their_first_frame(s4):
    train = clips_of(s4.run(), "train")
    assert set(train) == {"-_wznbUu3DY", "0d9u2CymIxc", "d-adbXZYHxI"}
    for clip in train.values():
        assert clip.annotated.tolist() == [True, False, False, False, False]
        assert len(clip.frames) == 5
        assert len(clip.labels) == 1


def test_ms3_frames_lie_outside_the_split_folders(ms3):
    folder = ms3.run()
    train = clips_of(folder, "train")
    assert list(train) == ["jlhuZfcw61w", "-7N2Japi3-A_4"]  # the table's order
    clip = train["-7N2Japi3-A_4"]
    for number, (frame, label) in enumerate(zip(clip.frames, clip.labels, strict=True), 1):
        name = f"{clip.uid}_{number}"
        np.testing.assert_array_equal(pixels(frame), layouts.picture_of(f"ms3/{name}"))
        np.testing.assert_array_equal(pixels(label), layouts.binary_mask_of(f"ms3/mask/{name}"))
    assert (clip.subset, clip.category, clip.annotated.all()) == ("v1m", "", True)
    assert read_dataset_facts(folder).sound_names == ()


def test_empty_masks_and_masks_of_0_and_1_are_legal(ms3):
    masks = ms3.source / "Multi-sources/ms3_data/gt_masks/val/xv7eM6-UmkY_36"
    layouts.write_picture(masks / "xv7eM6-UmkY_36_1.png", np.zeros((16, 24), np.uint8))
    ones = layouts.binary_mask_of("ones")
    layouts.write_picture(masks / "xv7eM6-UmkY_36_2.png", ones)
    Image.fromarray(ones > 0).save(masks / "xv7eM6-UmkY_36_3.png")  # a 1-bit file
    Image.fromarray(np.stack([ones * 255] * 3, -1)).save(masks / "xv7eM6-UmkY_36_4.png")
    folder = ms3.run()
    labels = [pixels(label) for label in clips_of(folder, "val")["xv7eM6-UmkY_36"].labels]
    assert not labels[0].any()
    for label in labels[1:4]:
        np.testing.assert_array_equal(label, ones)
    counts = read_dataset_facts(folder).warning_counts
    assert counts["mask_of_0_and_1"] == 1


def test_avss_splits_tell_the_subsets_apart(avss):
    facts = read_dataset_facts(avss.run())
    assert facts.splits == {
        "train_v1s": 2,
        "train_v1m": 1,
        "train_v2": 1,
        "val_v1s": 1,
        "val_v1m": 1,
        "val_v2": 1,
        "test_v1s": 1,
        "test_v1m": 1,
        "test_v2": 1,
    }
    assert facts.class_names == AVSS_CLASSES
    assert facts.sound_names == AVSS_CLASSES[1:]


def test_avss_clip_holds_jpegs_and_class_indices(avss):
    folder = avss.run()
    clip = clips_of(folder, "train_v2")["--iSerV5DbY_68000_78000"]
    home = avss.source / "v2" / clip.uid
    assert clip.frames == tuple((home / f"frames/{i}.jpg").read_bytes() for i in range(10))
    for i, label in enumerate(clip.labels):
        expected = layouts.class_map_of(f"{clip.uid}/{i}", size=layouts.size_of(clip.uid))
        np.testing.assert_array_equal(pixels(label), expected)
    assert clip.category == "girl_off-the-screen"
    assert clips_of(folder, "val_v1s")["zVfLHhs9uv8_3000_8000"].category == "h orse"
    annotated = {u: c.annotated.sum() for u, c in clips_of(folder, "train_v1s").items()}
    assert set(annotated.values()) == {1}
    assert clips_of(folder, "test_v1s")["-bcdefghijk_0_5000"].annotated.all()


def test_a_folder_with_other_classes_is_legal(tmp_path):
    names = ("background", "drone", "kettle", "owl")
    source = layouts.write_avss(tmp_path / "export", class_names=names)
    folder = prepare("avss", source, tmp_path / "prepared", progress=False)
    facts = read_dataset_facts(folder)
    assert facts.class_names == names
    assert facts.warning_counts["other_classes"] == 1
    uid = "AAAAAAAAAAA_0_10000"
    label = clips_of(folder, "val_v2")[uid].labels[3]
    expected = layouts.class_map_of(f"{uid}/3", 4, layouts.size_of(uid))
    np.testing.assert_array_equal(pixels(label), expected)


def test_disagreeing_index_files_are_counted(avss):
    # The first clip of each subset is in the compared sample.
    uid = "--iSerV5DbY_68000_78000"
    path = avss.source / "v2" / uid / "labels_semantic/0.png"
    labels = layouts.class_map_of(f"{uid}/0", size=layouts.size_of(uid))
    layouts.write_picture(path, labels + 1)
    facts = read_dataset_facts(avss.run())
    assert facts.warning_counts["labels_disagree"] == 1
    (warning,) = [w for w in facts.warnings if w["kind"] == "labels_disagree"]
    assert (warning["clip"], warning["path"]) == (uid, str(path))
    assert f"{labels.size} of {labels.size} pixels" in warning["what"]


def test_frame_size_stores_square_frames_and_leaves_labels(avss):
    folder = avss.run(frame_size=32)
    assert folder.parent.name == "frames32"
    clip = clips_of(folder, "test_v2")["BBBBBBBBBBB_0_10000"]
    original = Image.open(avss.source / "v2" / clip.uid / "frames/7.jpg")
    expected = np.asarray(original.resize((32, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(pixels(clip.frames[7]), expected)
    assert pixels(clip.labels[7]).shape == original.size[::-1]
    assert read_dataset_facts(folder).frame_size == 32


def test_frames_in_grey_become_rgb(s4):
    name = "-abcdefghij"
    path = s4.source / f"Single-source/s4_data/visual_frames/test/dog_barking/{name}/{name}_2.png"
    grey = layouts.picture_of("grey")[..., 0]
    layouts.write_picture(path, grey)
    clip = clips_of(s4.run(), "test")[name]
    np.testing.assert_array_equal(pixels(clip.frames[1]), np.stack([grey] * 3, -1))


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_sound_of_any_format_becomes_16_khz_mono(s4, rate, subtype):
    path = s4.source / "Single-source/s4_data/audio_wav/test/dog_barking/-abcdefghij.wav"
    seconds = np.arange(5 * rate) / rate
    left, right = 0.5 * np.sin(2 * np.pi * 440 * seconds), 0.1 * np.ones_like(seconds)
    soundfile.write(path, np.stack([left, right], 1), rate, subtype=subtype)
    waveform = clips_of(s4.run(), "test")["-abcdefghij"].waveform
    assert waveform.dtype == np.int16
    assert len(waveform) == 80_000
    expected = 0.25 * np.sin(2 * np.pi * 440 * np.arange(80_000) / 16_000) + 0.05
    middle = slice(2000, -2000)  # a resampler's filter rings at the ends
    np.testing.assert_allclose(waveform[middle] / 32768, expected[middle], atol=3e-4)


def test_sound_shorter_than_the_frames_is_kept_and_counted(s4):
    path = s4.source / "Single-source/s4_data/audio_wav/test/dog_barking/-abcdefghij.wav"
    layouts.write_sound(path, "short", 77_039 / 16_000)  # one sample short of five windows
    folder = s4.run()
    assert len(clips_of(folder, "test")["-abcdefghij"].waveform) == 77_039
    assert read_dataset_facts(folder).warning_counts["short_sound"] == 1


def test_roots_of_other_names_and_nesting_are_found(tmp_path):
    source = layouts.write_avss(tmp_path / "download" / "AVSBench_semantic")
    shutil.move(source / "v2", tmp_path / "v2")
    shutil.move(tmp_path / "v2", source / "v2" / "v2")  # a zip with the subset as its root
    shutil.move(source / "v1s", source / "unpacked" / "v1s")
    folder = prepare("avss", tmp_path / "download", tmp_path / "prepared", progress=False)
    assert read_dataset_facts(folder).splits["train_v2"] == 1
    assert read_dataset_facts(folder).splits["train_v1s"] == 2


def test_object_folders_may_be_named_themselves(s4, ms3):
    for prepared, name in ((s4, "Single-source"), (ms3, "Multi-sources")):
        prepared.source = prepared.source / name
        assert sum(read_dataset_facts(prepared.run()).splits.values()) >= 4


def test_last_frame_of_a_clip_from_second_6_is_repeated_on_request(s4):
    name = "d-adbXZYHxI"
    folder = s4.source / f"Single-source/s4_data/visual_frames/train/horse_clip-clop/{name}"
    (folder / f"{name}_5.png").unlink()
    prepared = s4.run(repeat_last_frame=True)
    clip = clips_of(prepared, "train")[name]
    assert len(clip.frames) == 5
    assert clip.frames[4] == clip.frames[3] == (folder / f"{name}_4.png").read_bytes()
    assert read_dataset_facts(prepared).warning_counts["repeated_frame"] == 1


def test_a_repeated_frame_has_no_labels_of_its_own(tmp_path):
    clip = layouts.S4Clip("0ioRPfQzAW0", split="val", start=6)
    source = layouts.write_s4(tmp_path / "s4", [*layouts.S4_CLIPS, clip])
    for kind in ("visual_frames", "gt_masks"):
        (source / f"Single-source/s4_data/{kind}/val/dog_barking/{clip.name}").joinpath(
            f"{clip.name}_5.png"
        ).unlink()
    folder = prepare("s4", source, tmp_path / "p", repeat_last_frame=True, progress=False)
    read = clips_of(folder, "val")[clip.name]
    assert read.annotated.tolist() == [True] * 4 + [False]
    assert len(read.labels) == 4
