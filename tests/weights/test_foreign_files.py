"""Files as people have them: other names of files, wrapped models, names of modules, no weights."""

import sys

import numpy as np
import pytest
from safetensors.numpy import save
from weight_files import STATES, assert_same_arrays, mask2former_state, swin_state, write

from ssp_jax.errors import UserError
from ssp_jax.weights.formats import format_of
from ssp_jax.weights.importing import import_weights
from ssp_jax.weights.names import kind_of, unwrapped
from ssp_jax.weights.sources import Source
from ssp_jax.weights.swin import older_names

PREFIXES = (
    *("module.", "_orig_mod.", "module._orig_mod.", "net.", "model.", "lightning.net.module."),
    "_fsdp_wrapped_module.",
)
# What torch.save of {} begins with: newer (zip) and older (a pickled magic number).
OLDER = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")


@pytest.mark.parametrize("kind", STATES)
def test_what_was_wrapped_around_a_model_is_taken_off(tmp_path, kind):
    state = STATES[kind]()
    plain = Source(write(state, tmp_path / "plain.safetensors"))
    # 'model.' before all names is Lightning's, though AAVS's own names begin so, too.
    assert plain.notes == []
    for number, prefix in enumerate(PREFIXES):
        wrapped = {prefix + name: value for name, value in state.items()}
        source = Source(write(wrapped, tmp_path / f"{number}.safetensors"))
        assert_same_arrays(source.arrays, plain.arrays)
        assert source.notes, prefix
        assert all(f"{len(state)} names" in note for note in source.notes)


def test_wrappers_inside_names_and_averages():
    names, notes = unwrapped(["a._orig_mod.b", "a.c", "my_orig_mod.d"])
    assert list(names.values()) == ["a.b", "a.c", "my_orig_mod.d"]
    assert notes == ["'_orig_mod.' taken off 1 names"]
    names, notes = unwrapped(["n_averaged", "module.a", "module.b"])
    assert names == {"module.a": "a", "module.b": "b"}
    assert len(notes) == 2
    same = ["a._orig_mod.b", "a.b"]  # would become one
    assert unwrapped(same) == (dict(zip(same, same, strict=True)), [])
    assert unwrapped(["module.a", "b"])[1] == []


@pytest.mark.parametrize("kind", STATES)
@pytest.mark.parametrize("other", STATES)
def test_the_kind_that_names_are_of_is_said(tmp_path, kind, other):
    assert kind_of(list(STATES[other]())) == other
    if kind != other:
        path = write(STATES[other](), tmp_path / "weights.safetensors")
        with pytest.raises(UserError, match=f"names in it are those of {other}: use") as error:
            import_weights(kind, path, tmp_path / "w")
        assert f"--source={other}" in str(error.value)


# Pairs (in files, of transformers 5's modules), as its modelling_swin.py has them.
MODULES = (
    ("attention.self.query", "attention.q_proj"),
    ("attention.self.key", "attention.k_proj"),
    ("attention.self.value", "attention.v_proj"),
    ("attention.self.relative_position", "attention.relative_position_bias.relative_position"),
    ("attention.output.dense", "attention.o_proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
)


def of_modules(name):
    for old, new in MODULES:
        if f".{old}" in name and ".blocks." in name:
            name = name.replace(f".{old}", f".{new}")
            break
    level = "model.pixel_level_module.encoder."
    inside = (level + "encoder.", level + "embeddings.")
    return name.replace(level, level + "swin.") if name.startswith(inside) else name


@pytest.mark.parametrize("make", [swin_state, mask2former_state])
def test_names_of_transformers_5(make):
    state = {n: v for n, v in make().items() if "relative_position_index" not in n}
    modules = {of_modules(name): value for name, value in state.items()}
    assert modules.keys() != state.keys()
    back, count = older_names(modules)
    assert_same_arrays(back, state)
    assert count == len(modules.keys() - state.keys())
    assert older_names(state) == (state, 0)
    assert kind_of(list(modules)) == kind_of(list(state))


@pytest.mark.parametrize("name", ["best.ckpt", "best.pth.tar", "best", "model.safetensors"])
def test_pytorch_files_of_any_name(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / name).write_bytes(OLDER + b"\x80\x02}q\x00.")
    with pytest.raises(UserError, match="needs PyTorch"):
        Source(tmp_path / name)


def test_safetensors_of_any_name(tmp_path):
    for name in ("best.ckpt", "model.bin"):
        (tmp_path / name).write_bytes(save({"a": np.ones(2, np.float32)}))
        source = Source(tmp_path / name)
        assert_same_arrays(source.arrays, {"a": np.ones(2, np.float32)})
        assert source.notes == [f"{name}: read as a file of safetensors, by its first bytes"]


WRONG = {
    b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n": "git lfs pull",
    b"\n<!DOCTYPE html><html>": "a web page",
    b"<html><head>": "a web page",
    b"\x89HDF\r\n\x1a\n": "HDF5",
    b"\x1f\x8b\x08": "packed by gzip",
    b"\x93NUMPY\x01": "an array of NumPy",
    b"\x80\x04\x95\x0e\x00\x00\x00\x00\x00\x00\x00}": "a pickle that torch.save did not write",
}


@pytest.mark.parametrize("content", WRONG)
def test_what_is_no_weights_is_named(tmp_path, content):
    for suffix in (".pth", ".safetensors", ".bin", ".ckpt", ".msgpack"):
        path = tmp_path / f"model{suffix}"
        path.write_bytes(content)
        with pytest.raises(UserError, match=WRONG[content]) as error:
            format_of(path)
        assert "truncated" not in str(error.value)
        assert str(path) in str(error.value)


def test_names_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="hf download google-bert/bert-base-uncased --local-dir"):
        Source("google-bert/bert-base-uncased")
    for path in ("weights/none.pth", tmp_path / "none"):
        with pytest.raises(UserError, match=r"no such file or folder$"):
            Source(path)


def test_numbers_of_8_bits(tmp_path):
    header = b'{"a":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}}'
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    with pytest.raises(UserError, match="a holds quantised numbers") as error:
        Source(path)
    assert "truncated" not in str(error.value)
