"""PyTorch's files: read as data only, written so that PyTorch reads them."""

import os
import pickle

import pytest
from weight_files import STATES, assert_same_arrays, released, swin_state, write

from ssp_jax.errors import UserError
from ssp_jax.weights.folder import load_weights
from ssp_jax.weights.sources import Source

torch = pytest.importorskip("torch")


def tensors(state):
    return {name: torch.tensor(value) for name, value in state.items()}


def run_import(command, kind, path, out):
    return command("import", f"--source={kind}", f"--path={path}", f"--out={out}")


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("zipped", [True, False])
def test_round_trip_of_a_pth_is_bitwise(command, tmp_path, stage, zipped):
    state = released(stage)
    path, out = tmp_path / "aavs.pth", tmp_path / "out.pth"
    torch.save(tensors(state), path, _use_new_zipfile_serialization=zipped)
    status, _, error = run_import(command, "aavs", path, tmp_path / "w")
    assert (status, error) == (0, "")
    status, _, error = command("export", "--to=aavs", f"--path={tmp_path / 'w'}", f"--out={out}")
    assert (status, error) == (0, "")
    back = {k: v.numpy() for k, v in torch.load(out, weights_only=True).items()}
    assert_same_arrays(back, state)


@pytest.mark.parametrize("kind", STATES)
def test_both_formats_give_the_same(command, tmp_path, kind):
    state = STATES[kind]()
    wrapped = {"model": tensors(state)} if kind == "swin-original" else tensors(state)
    torch.save(wrapped, tmp_path / "pytorch_model.bin")
    write(state, tmp_path / "other" / "weights.safetensors")
    for path, out in ((tmp_path, "w1"), (tmp_path / "other", "w2")):
        status, _, error = run_import(command, kind, path, tmp_path / "out" / out)
        assert (status, error) == (0, "")
    assert_same_arrays(load_weights(tmp_path / "out" / "w1"), load_weights(tmp_path / "out" / "w2"))


class Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_not_run(refused, tmp_path, zipped):
    marker = tmp_path / "ran"
    for name, content in (
        ("alone", Malicious(marker)),
        ("beside", tensors(swin_state()) | {"x": Malicious(marker)}),
    ):
        path = tmp_path / f"{name}.pth"
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        error = refused("import", "--source=swin", f"--path={path}", f"--out={tmp_path / 'w'}")
        assert "code in files is not run" in error
    path.write_bytes(pickle.dumps(Malicious(marker)))
    refused("import", "--source=swin", f"--path={path}", f"--out={tmp_path / 'w'}")
    assert not marker.exists()


def test_damaged_and_other_content(refused, tmp_path):
    path = tmp_path / "aavs.pth"

    def refused_import():
        return refused("import", "--source=aavs", f"--path={path}", f"--out={tmp_path / 'w'}")

    torch.save(tensors(released(1)), path)
    whole = path.read_bytes()
    for damaged in (whole[:-1000], whole[: len(whole) // 2], whole[:100], b"", b"\x80\x02."):
        path.write_bytes(damaged)
        assert "cannot be read as a PyTorch file" in refused_import()
    for content in (3, {"epoch": 3}, {"model": {"a": 1}}, torch.zeros(3), [torch.zeros(3)], {}):
        torch.save(content, path)
        assert "expected named arrays" in refused_import()
    torch.save({"a": torch.zeros(2, dtype=torch.float8_e4m3fn)}, path)
    assert str(path) in refused_import()


def test_states_beside_other_things(tmp_path):
    state, other = tensors(swin_state()), {"a": torch.zeros(2)}
    contents = (
        ({"epoch": 3, "net": state}, "'net'"),
        ({"state_dict": state, "optimizer": {"state": {}}}, "'state_dict'"),
        (
            {"model": state, "model_ema": other},
            "not the averages beside it in 'model_ema'",
        ),
        ({"model_ema": state, "epoch": 1}, "'model_ema'"),
    )
    for content, note in contents:
        torch.save(content, tmp_path / "best.ckpt")
        source = Source(tmp_path / "best.ckpt")
        assert_same_arrays(source.arrays, {k: v.numpy() for k, v in state.items()})
        assert source.notes[0] == "best.ckpt: read as a file of PyTorch, by its first bytes"
        assert source.notes[1].endswith(note)
    torch.save({"model": state, "net": other}, tmp_path / "best.ckpt")
    with pytest.raises(UserError, match="under just one of"):
        Source(tmp_path / "best.ckpt")
    torch.save({"a": torch.zeros(2, dtype=torch.float8_e4m3fn)}, tmp_path / "eight.pth")
    with pytest.raises(UserError, match="a holds quantised numbers"):
        Source(tmp_path / "eight.pth")


def test_half_precision(command, tmp_path):
    state = {name: tensor.bfloat16() for name, tensor in tensors(swin_state()).items()}
    torch.save(state, tmp_path / "swin.pth")
    status, _, error = run_import(command, "swin", tmp_path / "swin.pth", tmp_path / "w")
    assert (status, error) == (0, "")
    norm = load_weights(tmp_path / "w")["network/encoder/patch_norm/scale"]
    expected = state["swin.embeddings.norm.weight"].float().numpy()
    assert norm.tobytes() == expected.tobytes()
