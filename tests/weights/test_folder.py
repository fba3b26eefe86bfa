"""Weight folders: what is written is what is read, whole or not at all."""

import ml_dtypes
import numpy as np
import pytest
from weight_files import assert_same_arrays, write

from ssp_jax.errors import UserError
from ssp_jax.weights import folder
from ssp_jax.weights.folder import (
    is_weight_folder,
    load_facts,
    load_unused,
    load_weights,
    read_safetensors,
    save_weights,
)

ARRAYS = {
    "network/encoder/a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "network/scale": np.float32(3),
}


def test_round_trip(tmp_path):
    unused = {"x": np.arange(4)}
    save_weights(tmp_path / "deep" / "w", ARRAYS, {"source": "test", "n": (1, 2)}, unused)
    loaded = load_weights(tmp_path / "deep" / "w")
    assert_same_arrays(loaded, {name: np.array(v, order="C") for name, v in ARRAYS.items()})
    assert load_facts(tmp_path / "deep" / "w") == {"source": "test", "n": [1, 2]}
    assert_same_arrays(load_unused(tmp_path / "deep" / "w"), unused)
    assert is_weight_folder(tmp_path / "deep" / "w")
    assert not is_weight_folder(tmp_path)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["w"]
    (tmp_path / "new").touch()
    modes = {path.stat().st_mode for path in (tmp_path / "deep" / "w").iterdir()}
    assert modes == {(tmp_path / "new").stat().st_mode}
    save_weights(tmp_path / "bare", ARRAYS, {})
    assert load_unused(tmp_path / "bare") == {}


def test_half_precision_is_widened(tmp_path):
    for kind in (np.float16, ml_dtypes.bfloat16):
        path = write({"x": np.array([1.5, -2], kind)}, tmp_path / f"{kind.__name__}.safetensors")
        assert_same_arrays(read_safetensors(path), {"x": np.array([1.5, -2], np.float32)})


def test_an_existing_folder_is_not_touched(tmp_path):
    (tmp_path / "w").mkdir()
    with pytest.raises(UserError, match="exists already"):
        save_weights(tmp_path / "w", ARRAYS, {})
    assert list((tmp_path / "w").iterdir()) == []


def test_nothing_stays_when_writing_fails(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(folder, "save_file", full)
    with pytest.raises(UserError, match="no space left"):
        save_weights(tmp_path / "w", ARRAYS, {})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="expected a folder"):
        save_weights(tmp_path / "file" / "w", ARRAYS, {})


def test_every_changed_bit_shows(tmp_path):
    """Files of this format have no checksum of their own."""
    save_weights(tmp_path / "w", ARRAYS, {"model": {"hidden": 32}}, unused={"old": np.arange(9)})
    for name, read in (
        (folder.WEIGHTS, load_weights),
        (folder.UNUSED, folder.load_unused),
        (folder.FACTS, load_facts),
    ):
        file = tmp_path / "w" / name
        whole = file.read_bytes()
        file.write_bytes(whole.replace(b"32", b"33") if name == folder.FACTS else _flipped(whole))
        with pytest.raises(UserError, match=f"{name}: not as it was written"):
            read(tmp_path / "w")
        file.write_bytes(whole)
        read(tmp_path / "w")


def _flipped(content):
    return content[:-2] + bytes([content[-2] ^ 1]) + content[-1:]


@pytest.mark.parametrize("length", [1 << 60, 1 << 31])
def test_a_header_that_claims_to_be_huge(tmp_path, length):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        folder.read_safetensors(path)
    header = b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        folder.read_safetensors(path)


def test_damaged_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="not there"):
        load_weights(tmp_path / "none")
    save_weights(tmp_path / "w", ARRAYS, {})
    file = tmp_path / "w" / folder.WEIGHTS
    whole = file.read_bytes()
    for damaged in (whole[:-4], whole[:9], b"", b"\xff" * 64, b"{}"):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match="safetensors"):
            load_weights(tmp_path / "w")
    write({"x": np.zeros(2, np.int32)}, file)
    with pytest.raises(UserError, match="expected float32"):
        load_weights(tmp_path / "w")
    for damaged in ("{", "[]", "\0"):
        (tmp_path / "w" / folder.FACTS).write_text(damaged)
        with pytest.raises(UserError, match="JSON"):
            load_facts(tmp_path / "w")
