"""JSON that may be anything."""

import json
import os

import pytest

from ssp_jax.errors import UserError
from ssp_jax.json_files import load_json, read_sealed, write_sealed


def test_what_was_written_comes_back_and_a_change_shows(tmp_path):
    path = tmp_path / "a.json"
    write_sealed(path, {"n": 1, "names": ("a", "ä"), 3: 0.1})
    facts = {"n": 1, "names": ["a", "ä"], "3": 0.1}
    assert read_sealed(path, "Do") == facts
    whole = path.read_text()
    # The checksum's own name may be what is damaged.
    for damaged in (('"n": 1', '"n": 2'), ('"sha256"', '"sha25"')):
        path.write_text(whole.replace(*damaged))
        with pytest.raises(UserError, match=r"a\.json: not as it was written, its .*Do this"):
            read_sealed(path, "Do this")
    path.write_text(json.dumps(facts))  # as older code and people write it
    assert read_sealed(path, "Do") == facts
    for damaged in (whole[:-3], "[1]", "[" * 100_000, '{"n": ' + "9" * 5000 + "}"):
        path.write_text(damaged)
        with pytest.raises(UserError, match=r"a\.json"):
            read_sealed(path, "Do")


def test_absurd_sizes_and_things_that_are_no_files(tmp_path):
    path = tmp_path / "huge.json"
    path.touch()
    os.truncate(path, 1 << 30)  # takes no room
    with pytest.raises(ValueError, match="1024 MiB; expected at most 256"):
        load_json(path)
    os.mkfifo(tmp_path / "pipe.json")  # would wait for ever
    for other in (tmp_path / "pipe.json", tmp_path, "/dev/zero"):
        with pytest.raises((ValueError, OSError)):
            load_json(type(path)(other))
