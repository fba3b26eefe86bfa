"""The built-in benchmark as a prepared data set, and its way through AVSBench's layouts."""

import csv
import io
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from prepared_clips import clips_of, everything

from ssp_jax.errors import UserError
from tfds_builders.avs_builtin import prepare_builtin
from tfds_builders.avs_builtin.builder import SIZES
from tfds_builders.avs_builtin.catalogue import CLASS_NAMES, SPLITS, SUBSETS
from tfds_builders.avs_builtin.clip import clip
from tfds_builders.avs_builtin.export import export, main, voc_palette
from tfds_builders.facts import read_dataset_facts
from tfds_builders.prepare import prepare


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    return prepare("builtin_tiny", None, tmp_path_factory.mktemp("prepared"), progress=False)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "out"
    export(folder, "tiny", progress=False)
    return folder


_SCRIPT = """
from tfds_builders.prepare import prepare
prepare("builtin_tiny", None, "prepared", progress=False)
"""


def test_a_script_without_guard_is_told_so(tmp_path):
    (tmp_path / "script.py").write_text(_SCRIPT)
    command = [sys.executable, "script.py"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 1
    assert "has no if __name__ == '__main__':" in done.stderr
    assert "UserError" in done.stderr.splitlines()[-1]


def test_workers_end_with_a_process_that_is_killed(tmp_path):
    command = [sys.executable, "-m", "tfds_builders.prepare", "--benchmark=builtin_tiny"]
    process = subprocess.Popen([*command, f"--prepared_dir={tmp_path}"], start_new_session=True)

    def of_session():
        return [n for n in os.listdir("/proc") if n.isdigit() and _session(n) == process.pid]

    def at_work():  # itself, the resource tracker and a worker; the folder may come before that
        return list(tmp_path.rglob("*.tmp*")) and len(of_session()) > 2

    while not at_work():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while of_session() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert of_session() == []


def _session(number):
    try:
        return os.getsid(int(number))
    except ProcessLookupError:
        return None


def _pixels(encoded):
    return np.asarray(Image.open(io.BytesIO(encoded)))


def test_splits_and_names(native):
    facts = read_dataset_facts(native)
    assert facts.benchmark == "builtin"
    assert facts.class_names == CLASS_NAMES
    assert facts.sound_names == CLASS_NAMES[1:]
    assert facts.splits == {
        f"{split}_{subset}": SIZES["tiny"][subset][k]
        for k, split in enumerate(SPLITS)
        for subset in SUBSETS
    }


def test_prepared_clips_are_the_generated_ones(native):
    stored = clips_of(native, "val_v2")
    for index in range(3):
        made = clip(0, "val", "v2", index)
        assert list(stored[made["uid"]].frames) == made["frames"]
        np.testing.assert_array_equal(stored[made["uid"]].waveform, made["waveform"])
        for ours, theirs in zip(made["labels"], stored[made["uid"]].labels, strict=True):
            np.testing.assert_array_equal(_pixels(ours), _pixels(theirs))


def test_frame_size_changes_frames_and_nothing_else(native, tmp_path):
    small = prepare_builtin(tmp_path, size="tiny", frame_size=32, progress=False)
    assert read_dataset_facts(small).frame_size == 32
    for uid, whole in clips_of(native, "test_v2").items():
        reduced = clips_of(small, "test_v2")[uid]
        assert {_pixels(frame).shape for frame in reduced.frames} == {(32, 32, 3)}
        assert reduced.labels == whole.labels


def test_another_seed_is_another_data_set(native, tmp_path):
    other = prepare_builtin(tmp_path, size="tiny", seed=1, progress=False)
    assert not set(clips_of(other, "test_v1s")) & set(clips_of(native, "test_v1s"))


def test_unknown_size_is_told(tmp_path):
    with pytest.raises(UserError, match="no size 'huge'"):
        prepare_builtin(tmp_path, size="huge")


def _same(ours, theirs, *, binary):
    """Compares clips of the built-in data set with those that came through a folder."""
    assert len(ours.frames) == len(theirs.frames)
    for a, b in zip(ours.frames, theirs.frames, strict=True):
        np.testing.assert_array_equal(_pixels(a), _pixels(b))
    for a, b in zip(ours.labels, theirs.labels, strict=True):
        labels = _pixels(a)
        np.testing.assert_array_equal(labels > 0 if binary else labels, _pixels(b))
    np.testing.assert_array_equal(ours.waveform, theirs.waveform)


@pytest.mark.parametrize(("benchmark", "subset"), [("s4", "v1s"), ("ms3", "v1m")])
def test_object_export_prepares_to_the_same_clips(exported, native, tmp_path, benchmark, subset):
    folder = prepare(benchmark, exported, tmp_path, progress=False)
    for split in SPLITS:
        ours = clips_of(native, f"{split}_{subset}")
        if benchmark == "s4":  # its names are v1s's vids
            ours = {uid.rsplit("_", 2)[0]: made for uid, made in ours.items()}
        theirs = clips_of(folder, split)
        assert set(ours) == set(theirs)
        for uid, made in ours.items():
            _same(made, theirs[uid], binary=True)


def test_semantic_export_prepares_to_the_same_clips(exported, native, tmp_path):
    folder = prepare("avss", exported / "AVSS", tmp_path, progress=False)
    assert read_dataset_facts(folder).class_names == CLASS_NAMES
    for split in (f"{split}_{subset}" for split in SPLITS for subset in SUBSETS):
        ours, theirs = clips_of(native, split), clips_of(folder, split)
        assert set(ours) == set(theirs)
        for uid, made in ours.items():
            _same(made, theirs[uid], binary=False)
            assert made.category == theirs[uid].category


def test_tables_join_as_in_avsbench(exported):
    def rows(path):
        with (exported / path).open(newline="") as file:
            return list(csv.DictReader(file))

    semantic = rows("AVSS/metadata.csv")
    single = {(r["name"], r["start"], r["split"]) for r in rows("Single-source/s4_meta_data.csv")}
    multi = {(r["video_id"], r["split"]) for r in rows("Multi-sources/ms3_meta_data.csv")}
    v1s = {
        (r["vid"], str(int(r["s_min"]) * 60 + int(r["s_sec"])), r["split"])
        for r in semantic
        if r["label"] == "v1s"
    }
    assert single == v1s
    assert multi == {(r["uid"], r["split"]) for r in semantic if r["label"] == "v1m"}
    table = json.loads((exported / "AVSS" / "label2idx.json").read_text())
    assert list(table) == list(CLASS_NAMES)
    assert list(table.values()) == list(range(1, len(CLASS_NAMES) + 1))


def test_palette_is_the_voc_one():
    palette = voc_palette(71)
    expected = {1: (128, 0, 0), 6: (0, 128, 128), 47: (192, 128, 192), 64: (32, 0, 0)}
    assert {k: tuple(palette[k].tolist()) for k in expected} == expected
    assert len(np.unique(palette, axis=0)) == 71


def test_masks_are_black_and_white(exported):
    masks = sorted((exported / "Multi-sources").glob("ms3_data/gt_masks/*/*/*.png"))
    values = {v for path in masks for v in np.unique(np.asarray(Image.open(path))).tolist()}
    assert values == {0, 255}


def test_export_refuses_a_folder_in_use(exported, capsys):
    before = sorted(exported.iterdir())
    assert main([f"--out={exported}", "--config=tiny"]) == 1
    message = capsys.readouterr().err
    assert str(exported) in message
    assert "Traceback" not in message
    assert sorted(exported.iterdir()) == before


def test_export_leaves_nothing_behind_when_it_fails(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("tfds_builders.avs_builtin.export.soundfile.write", fail)
    with pytest.raises(OSError, match="disk full"):
        export(tmp_path / "out", "tiny", layout="s4", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_preparing_twice_gives_the_same_bytes(native, tmp_path):
    again = prepare("builtin_tiny", None, tmp_path, progress=False)
    assert everything(native) == everything(again)
