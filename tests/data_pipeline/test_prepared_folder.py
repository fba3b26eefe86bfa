"""Prepared data sets of strangers, and damaged ones."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from ssp_jax.data.sources import ClipSource
from ssp_jax.errors import UserError


@pytest.fixture
def copied(prepared, tmp_path):
    return Path(shutil.copytree(prepared, tmp_path / "copied"))


def _read_all(folder, split):
    source = ClipSource([(folder, split)])
    for index in range(len(source)):
        source[index]


def refused(folder, split="test"):
    with pytest.raises(UserError) as error:
        _read_all(folder, split)
    assert str(folder) in str(error.value)
    return str(error.value)


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_class_that_data_name_is_not_imported(copied, tmp_path, monkeypatch):
    (tmp_path / "stranger.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(tmp_path)
    path, name = copied / "features.json", "tensorflow_datasets.core.features.text_feature.Text"
    whole = path.read_text()
    change(path, name, "stranger.Feature")
    assert "names the class 'stranger.Feature', and code that data name is not" in refused(copied)
    path.write_text(json.dumps({"type": "stranger.Feature", "content": {}}))
    assert "stranger.Feature" in refused(copied)
    assert "stranger" not in sys.modules
    for damaged in (whole.replace('"int16"', '"int32"'), "{}", whole[:-9], "[" * 100_000):
        path.write_text(damaged)
        assert "features.json" in refused(copied)


@pytest.mark.parametrize("place", ["../prepared/{DATASET}", "/etc/{DATASET}"])
def test_files_elsewhere_are_not_read(copied, place):
    change(copied / "dataset_info.json", '"{DATASET}-', f'"{place}-')
    assert "expected files of that folder alone" in refused(copied)


def test_a_link_out_of_the_folder_is_refused(copied, tmp_path):
    """Else stored flows could overwrite what it leads to."""
    # Not flow-dis: what is copied has that where other tests came first.
    precious = tmp_path / "precious"
    precious.write_text("kept")
    (copied / "flow-strange").mkdir()
    (copied / "flow-strange" / ".lock").symlink_to(precious)
    assert "a link to" in refused(copied)
    (copied / "flow-strange" / ".lock").unlink()
    (copied / "flow-strange").rmdir()
    (copied / "flow-strange").symlink_to(tmp_path)
    assert "a link to" in refused(copied)
    (copied / "flow-strange").unlink()
    # Links within it, and to it, are nobody's harm.
    (copied / "again").symlink_to("dataset_info.json")
    (tmp_path / "elsewhere").symlink_to(copied)
    assert len(ClipSource([(tmp_path / "elsewhere", "test")])) == 5


def test_a_damaged_shard_is_named(copied):
    (shard,) = copied.glob("*-test.array_record*")
    whole = shard.read_bytes()
    place = whole.rindex(b"-clip2") if b"-clip2" in whole else len(whole) // 2
    shard.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    assert "of test cannot be read" in refused(copied)
    os.unlink(shard)
    with pytest.raises(UserError, match="No such file"):
        _ = ClipSource([(copied, "test")]).table


def test_a_clip_table_that_was_changed_is_made_anew(copied):
    source = ClipSource([(copied, "test")])
    counts = source.table.num_annotated.tolist()
    path = copied / "clip_table-test.json"
    stored = json.loads(path.read_text())
    stored["clips"][1][4] -= 1
    path.write_text(json.dumps(stored))
    assert ClipSource([(copied, "test")]).table.num_annotated.tolist() == counts
