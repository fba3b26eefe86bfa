import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_clips import CATEGORIES, waveform_of

from ssp_jax.data.sources import ClipSource
from ssp_jax.errors import UserError
from ssp_jax.json_files import seal


def test_clips_of_several_splits_in_one_index_space(prepared):
    source = ClipSource([(prepared, "train"), (prepared, "test")])
    assert len(source) == 4 + 3 + 5
    uids = [source[index].uid for index in range(len(source))]
    assert uids == [f"-clip{number}" for number in (*range(7), *range(5))]
    assert source.table.uid == tuple(uids)
    assert source.table.num_frames.tolist() == [5] * 4 + [10] * 3 + [5] * 5
    assert source.table.num_annotated.tolist() == [1] * 4 + [10] * 3 + [5] * 5
    assert source.table.subset == ("v1s",) * 4 + ("v2",) * 3 + ("v1s",) * 5
    assert source.table.category[:5] == CATEGORIES
    both = ClipSource([(prepared, "train")]) + ClipSource([(prepared, "test")])
    assert both.table.uid == tuple(uids)
    for outside in (-1, 12):
        with pytest.raises(IndexError):
            source[outside]


def test_a_clip_comes_with_encoded_images(prepared):
    clip = ClipSource([(prepared, "train_v2")])[1]
    assert clip.uid == "-clip5"
    assert all(encoded.startswith(b"\x89PNG") for encoded in (*clip.frames, *clip.labels))
    assert (len(clip.frames), len(clip.labels)) == (10, 10)
    assert {name: len(maps) for name, maps in clip.maps.items()} == {"objects": 10, "moving": 10}
    np.testing.assert_array_equal(clip.waveform, waveform_of(5, 10))
    assert clip.texts == ("scene 5", "nouns 5")


def test_single_annotated_frame(prepared):
    clip = ClipSource([(prepared, "train_v1s")])[0]
    assert (len(clip.frames), len(clip.labels)) == (5, 1)
    assert isinstance(clip.labels[0], bytes)
    assert clip.annotated.tolist() == [True, False, False, False, False]


def test_reading_needs_neither_tensorflow_nor_jax(prepared):
    code = (
        "import sys; from ssp_jax.data.sources import ClipSource;"
        f"ClipSource([({prepared!r}, 'test')])[0];"
        "print('tensorflow' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_table_is_kept_until_the_data_change(prepared):
    path = Path(prepared) / "clip_table-test.json"
    ClipSource([(prepared, "test")]).table  # noqa: B018
    stored = json.loads(path.read_text())
    stored["clips"][0][0] = "from the file"
    path.write_text(json.dumps(seal({key: stored[key] for key in ("fingerprint", "clips")})))
    assert ClipSource([(prepared, "test")]).table.uid[0] == "from the file"
    path.write_text(json.dumps({**stored, "fingerprint": "of other data"}))
    assert ClipSource([(prepared, "test")]).table.uid[0] == "-clip0"
    path.write_text("{ damaged")
    assert ClipSource([(prepared, "test")]).table.uid[0] == "-clip0"
    assert not list(Path(prepared).glob(".clip_table*"))


def test_pickled_source_reads_on(prepared):
    source = ClipSource([(prepared, "test")])
    source[0]  # opens the files
    assert pickle.loads(pickle.dumps(source))[3].uid == "-clip3"


def test_mistakes_are_named(prepared, tmp_path):
    with pytest.raises(UserError, match=r"dataset_info\.json"):
        ClipSource([(tmp_path, "train")])
    with pytest.raises(UserError, match=r"'validation'.*train_v1s"):
        ClipSource([(prepared, "validation")])
    with pytest.raises(UserError, match="-clip0"):
        ClipSource([(prepared, "damaged_counts")]).table  # noqa: B018
