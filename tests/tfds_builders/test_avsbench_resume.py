"""Interruptions lose nothing, and prepared data are told from all others."""

import json
import os
import shutil
import signal
import subprocess
import sys

import layouts
import pytest
from prepared_clips import everything

from ssp_jax.errors import UserError
from tfds_builders import clip_files, pictures
from tfds_builders.avs_s4 import AvsS4
from tfds_builders.base import Staging
from tfds_builders.facts import read_dataset_facts
from tfds_builders.prepare import prepare

CLIPS = [layouts.S4Clip(f"clip{i:07d}", split=("train", "val")[i % 2]) for i in range(14)]


@pytest.fixture
def many(s4, tmp_path, monkeypatch):
    """14 clips in shards of two: four shards of each of two splits (one of a single clip)."""
    monkeypatch.setattr(AvsS4, "CLIPS_PER_SHARD", 2)
    s4.source = layouts.write_s4(tmp_path / "many", CLIPS)
    return s4


@pytest.fixture
def conversions(monkeypatch):
    """The clips that were converted, in order; raises at the clip named in `stop`."""
    seen, run = [], clip_files._Conversion.run

    def counted(self):
        seen.append(self.clip.uid)
        if self.clip.uid in stop:
            raise KeyboardInterrupt
        return run(self)

    stop = set()
    monkeypatch.setattr(clip_files._Conversion, "run", counted)
    seen_and_stop = type("Conversions", (), {"seen": seen, "stop": stop})
    return seen_and_stop


def test_interrupted_run_goes_on_with_the_shards_it_has(many, conversions):
    reference = everything(many.run())
    shutil.rmtree(many.prepared_dir)
    assert len(conversions.seen) == len(CLIPS)  # every clip once, by an uninterrupted run

    conversions.stop.add("clip0000005")  # in the second shard of val
    with pytest.raises(KeyboardInterrupt):
        many.run()
    assert not list(many.prepared_dir.rglob("dataset*.json"))
    conversions.stop.clear()
    conversions.seen.clear()
    folder = many.run()
    # Whole before: train's four shards (7 clips) and val's first (clips 1 and 3).
    assert sorted(conversions.seen) == [f"clip{i:07d}" for i in (5, 7, 9, 11, 13)]
    assert everything(folder) == reference
    assert not list(many.prepared_dir.rglob("*.staging"))
    assert not list(many.prepared_dir.rglob("incomplete*"))


def test_killed_process_loses_no_finished_shard(many, conversions, tmp_path):
    """SIGKILL: nothing of Python's own cleaning up runs."""
    program = f"""
import os, signal, sys
from tfds_builders import clip_files
from tfds_builders.avs_s4 import AvsS4
from tfds_builders.prepare import prepare
AvsS4.CLIPS_PER_SHARD = 2
run = clip_files._Conversion.run
def killed(self):
    if self.clip.uid == "clip0000005":
        os.kill(os.getpid(), signal.SIGKILL)
    return run(self)
clip_files._Conversion.run = killed
prepare("s4", {str(many.source)!r}, {str(many.prepared_dir)!r}, progress=False)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (staging,) = many.prepared_dir.rglob("*.staging")
    with pytest.raises(UserError, match="no prepared data set"):
        read_dataset_facts(staging)
    folder = many.run()
    assert sorted(conversions.seen) == [f"clip{i:07d}" for i in (5, 7, 9, 11, 13)]
    fresh = prepare("s4", many.source, tmp_path / "fresh", progress=False)
    assert everything(folder) == everything(fresh)
    names = sorted(path.name for path in fresh.iterdir())
    present = sorted(path.name for path in folder.iterdir())
    # The reader's own cache is no part of the comparison.
    assert [n for n in present if "table" not in n] == [n for n in names if "table" not in n]
    assert not [path for path in folder.parent.iterdir() if "incomplete" in path.name]


def test_interruption_while_tfds_gathers_the_shards(many, conversions, monkeypatch):
    link, linked = os.link, []

    def failing(source, target):
        linked.append(target)
        if len(linked) == 3:
            raise KeyboardInterrupt
        link(source, target)

    monkeypatch.setattr(os, "link", failing)
    with pytest.raises(KeyboardInterrupt):
        many.run()
    assert len(conversions.seen) == len(CLIPS)
    many.run()
    assert len(conversions.seen) == len(CLIPS)


def test_mended_files_are_the_only_ones_converted_again(many, conversions):
    path = many.source / "Single-source/s4_data/audio_wav/train/dog_barking/clip0000004.wav"
    sound = path.read_bytes()
    path.unlink()
    with pytest.raises(UserError, match="clip0000004"):
        many.run()
    conversions.seen.clear()
    path.write_bytes(sound)
    many.run()
    assert sorted(conversions.seen) == ["clip0000004", "clip0000006"]  # its shard


def test_changed_file_is_read_anew(many, conversions):
    conversions.stop.add("clip0000013")
    with pytest.raises(KeyboardInterrupt):
        many.run()
    conversions.stop.clear()
    frame = many.source / "Single-source/s4_data/visual_frames/train/dog_barking/clip0000000"
    frame /= "clip0000000_1.png"
    layouts.write_picture(frame, layouts.picture_of("changed"))
    conversions.seen.clear()
    records = everything(many.run())["train"]
    assert "clip0000000" in conversions.seen
    assert records[0][1][0] == frame.read_bytes()


def test_damaged_staged_shard_is_made_again(many, conversions):
    conversions.stop.add("clip0000013")
    with pytest.raises(KeyboardInterrupt):
        many.run()
    conversions.stop.clear()
    conversions.seen.clear()
    first, *_ = sorted(many.prepared_dir.rglob("*.staging/train-00000-*.array_record"))
    first.write_bytes(first.read_bytes()[:100])
    many.run()
    assert {"clip0000000", "clip0000002"} <= set(conversions.seen)
    assert "clip0000004" not in conversions.seen


def test_disk_that_is_full_is_no_traceback(many):
    """In a process of its own, which may not write files of more than 50 kB."""
    program = f"""
import resource, signal, sys
from tfds_builders.prepare import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
sys.exit(main(["--benchmark=s4", "--source={many.source}", "--prepared_dir={many.prepared_dir}"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False, text=True
    )
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert sum(read_dataset_facts(many.run()).splits.values()) == len(CLIPS)


@pytest.mark.parametrize("fault", [AttributeError, RuntimeError])
def test_unexpected_faults_of_the_program_are_not_hidden(many, monkeypatch, fault):
    def broken(*_):
        raise fault("a bug")

    monkeypatch.setattr(clip_files, "stored_frame", broken)
    with pytest.raises(fault, match="a bug"):
        many.run()


def test_prepared_data_are_returned_at_once(s4, conversions, monkeypatch):
    folder = s4.run()
    assert conversions.seen
    conversions.seen.clear()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    monkeypatch.setattr(pictures, "open_picture", None)
    assert s4.run() == folder
    assert not conversions.seen
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_sizes_of_frames_have_folders_of_their_own(s4):
    assert s4.run(frame_size=16) != s4.run()


def test_another_source_in_the_same_place_is_refused(s4, tmp_path):
    folder = s4.run()
    other = layouts.write_s4(tmp_path / "other", layouts.S4_CLIPS[:3])
    s4.source = other
    with pytest.raises(UserError, match="another source") as error:
        s4.run()
    assert str(other) in str(error.value)
    assert str(folder) in str(error.value)


def test_same_table_with_other_files_is_another_source(s4, tmp_path):
    s4.run()
    s4.source = shutil.copytree(s4.source, tmp_path / "copy")
    (wav,) = s4.source.rglob("-abcdefghij.wav")
    layouts.write_sound(wav, "other", 6)
    with pytest.raises(UserError, match="another source"):
        s4.run()


def test_moved_or_removed_source_is_still_the_same(s4, tmp_path):
    folder = s4.run()
    original = s4.source
    s4.source = shutil.move(original, tmp_path / "moved")
    assert s4.run() == folder
    s4.source = original  # gone: removed to save its space
    assert s4.run() == folder
    s4.source = tmp_path / "never"
    with pytest.raises(UserError, match="no such folder"):
        s4.run()


def test_partial_data_are_not_taken_for_whole_ones(s4):
    (wav,) = s4.source.rglob("-abcdefghij.wav")
    content = wav.read_bytes()
    wav.unlink()
    folder = s4.run(allow_missing=True)
    assert s4.run(allow_missing=True) == folder
    with pytest.raises(UserError, match="partial data set: 1 clips were left out"):
        s4.run()
    wav.write_bytes(content)
    with pytest.raises(UserError, match="its source has changed since"):
        s4.run(allow_missing=True)


def test_repeated_frames_are_not_taken_for_real_ones(s4):
    (frame,) = s4.source.rglob("d-adbXZYHxI_5.png")
    frame.unlink()
    folder = s4.run(repeat_last_frame=True)
    assert s4.run(repeat_last_frame=True) == folder
    with pytest.raises(UserError, match="--repeat_last_frame"):
        s4.run()


def test_folder_without_facts_is_no_prepared_data_set(s4):
    folder = s4.run()
    (folder / "dataset.json").unlink()
    with pytest.raises(UserError, match="no prepared data set"):
        s4.run()
    (folder / "dataset.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(UserError, match="not of format"):
        s4.run()


def test_two_processes_prepare_one_after_the_other(many):
    staging = Staging(AvsS4.target_for(many.prepared_dir, AvsS4(source=many.source).options))
    program = (
        "from tfds_builders.prepare import prepare;"
        f"prepare('s4', {str(many.source)!r}, {str(many.prepared_dir)!r}, progress=False)"
    )
    with staging.lock():
        waiting = subprocess.Popen(
            [sys.executable, "-c", program], stderr=subprocess.PIPE, text=True
        )
        assert any("waiting for it" in line for line in waiting.stderr)
        assert not staging.folder.exists()
    waiting.stderr.read()
    assert waiting.wait(timeout=60) == 0
    assert sum(read_dataset_facts(many.run()).splits.values()) == len(CLIPS)
