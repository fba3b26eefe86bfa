import io
import multiprocessing
import pickle

import numpy as np
import pytest
from array_record.python import array_record_module

from ssp_jax.data.clip_store import ClipStore, differences, read_note, write_note
from ssp_jax.data.saved_arrays import read_array
from ssp_jax.errors import UserError

RECORDS = [b"", b"a", b"bb" * 10_000, b"c", b"d", b"e", b"f"]


def make(tmp_path, count=len(RECORDS)) -> ClipStore:
    return ClipStore(tmp_path / "store", count, 3, "the stored things", "Make them again")


def test_records_come_back_in_any_order(tmp_path):
    store = make(tmp_path)
    assert store.next_clip() == 0
    store.write(RECORDS)
    assert store.next_clip() == len(RECORDS)
    assert len(list(store.folder.glob("*.array_record"))) == 3
    store = pickle.loads(pickle.dumps(store))
    for clip in (6, 0, 3, 2, 5, 1, 4):
        assert store.read(clip, bytes) == RECORDS[clip]


def test_an_empty_source_is_complete(tmp_path):
    assert make(tmp_path, 0).next_clip() == 0


def test_writing_goes_on_at_the_first_missing_shard(tmp_path):
    def killed():
        yield from RECORDS[:5]
        raise KeyboardInterrupt

    store = make(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        store.write(killed())
    assert store.next_clip() == 3
    store.write(RECORDS[3:])
    assert [store.read(clip, bytes) for clip in range(7)] == RECORDS
    assert not list(store.folder.glob("*.tmp"))


def test_unreadable_records_are_named_with_the_remedy(tmp_path):
    store = make(tmp_path)
    with pytest.raises(UserError, match=r"00001\.array_record: the stored things of clip 4 .*Make"):
        store.read(4, bytes)
    store.write(RECORDS)
    with pytest.raises(UserError, match=r"clip 1 cannot be read .*Make them again"):
        store.read(1, int)


def test_a_shard_in_anothers_place_is_not_read(tmp_path):
    store, other = make(tmp_path), make(tmp_path / "other")
    store.write(RECORDS)
    other.write(RECORDS)
    for number, found in ((1, r"the stored things of store/00000\."), (2, "a file of 4 records")):
        path = store.folder / f"{number:05d}.array_record"
        path.write_bytes((other.folder / "00000.array_record").read_bytes())
        with pytest.raises(UserError, match=f"it is not this file, but {found}"):
            store.read(3 * number, bytes)
    # As code before wrote them, without that record.
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    writer.write(b"old")
    writer.close()
    assert store.read(6, bytes) == b"old"


def test_a_record_that_claims_to_be_huge(tmp_path):
    store, header = make(tmp_path), io.BytesIO()
    description = {"descr": "<f2", "fortran_order": False, "shape": (10**13,)}
    np.lib.format.write_array_header_1_0(header, description)
    store.write([header.getvalue()] * len(RECORDS))
    with pytest.raises(UserError, match="clip 0 cannot be read"):
        store.read(0, read_array)


def test_notes_are_written_once_and_compared(tmp_path):
    folder = tmp_path / "store"
    assert read_note(folder) is None
    write_note(folder, {"size": (1, 2), "model": "a"})
    write_note(folder, {"size": 9})
    note = read_note(folder)
    assert note == {"size": [1, 2], "model": "a"}
    assert differences(note, {"size": (1, 2), "model": "a"}) == ""
    said = differences(note, {"size": [1, 3], "kind": 1})
    assert said == (
        "kind: None there, 1 asked for; model: a there, None asked for; "
        "size: [1, 2] there, [1, 3] asked for"
    )
    for damaged in ("{", "[1]"):
        (folder / "made_from.json").write_text(damaged)
        with pytest.raises(UserError, match=r"made_from\.json.*Delete"):
            read_note(folder)


def _write(store, held):
    with store.lock():
        held.set()
        if store.next_clip() == 0:
            store.write(RECORDS)


def test_writers_wait_for_each_other(tmp_path, caplog):
    store = make(tmp_path)
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    with store.lock():
        other = context.Process(target=_write, args=(store, held))
        other.start()
        assert not held.wait(3)
        assert store.next_clip() == 0
    other.join(30)
    assert other.exitcode == 0
    assert store.next_clip() == len(RECORDS)
