"""`verify` on the golden values, on a file that differs, and on files of another layout.

Every value of both files is compared in tests/models/test_aavs_parity.py.
"""

import functools
import io
import struct
import zipfile

import numpy as np
import pytest
from weight_files import GOLDEN, reference

from ssp_jax.weights import verify
from ssp_jax.weights.verify import Difference, relative_error, table

FILE = GOLDEN / "aavs_stage1_tiny.npz"
EMBEDDER = "grad/model.transformer_module.queries_embedder.weight"


_COMPUTE = verify.compute


@functools.cache
def _computed():
    return _COMPUTE(reference(1), sampling="map")


@pytest.fixture
def computed_once(monkeypatch):
    """Computing takes long, and these files have the same weights and inputs."""
    monkeypatch.setattr(verify, "compute", lambda *_, **__: _computed())


def rewritten(path, **changes):
    """The golden file with changes; None takes a value away."""
    values = dict(reference(1).values)
    for name, value in changes.items():
        values.pop(name) if value is None else values.__setitem__(name, value)
    np.savez(path, **values)
    return path


@pytest.mark.usefixtures("computed_once")
def test_the_golden_file(command):
    status, out, error = command("verify", FILE)
    assert (status, error) == (0, "")
    assert "AAVS stage 1" in out
    for part in ("out/backbone/*", "out/loss", "grad/class_predictor.weight", "in_proj_weight"):
        assert part in out
    number = 4 + 3 + 1 + 2 * 5 + 1 + 1 + 5 + len(reference(1).grad_norms)
    assert f"{number} of {number} values within their limits" in out
    assert "FAILS" not in out


@pytest.mark.usefixtures("computed_once")
def test_differences_are_named(command, tmp_path):
    changes = {
        "out/aux/2/class_queries_logits": reference(1)["out/aux/2/class_queries_logits"] * 1.001,
        "out/mask_features": reference(1)["out/mask_features"][:, :, ::-1],
        "out/loss": np.array([np.nan], np.float32),
        EMBEDDER: reference(1)[EMBEDDER] * 1.01,
    }
    path = rewritten(tmp_path / "changed.npz", **changes)
    status, out, error = command("verify", path)
    assert (status, error) == (1, "")
    named = [line.split()[1].rstrip(":") for line in out.splitlines() if line.startswith("FAILS")]
    assert sorted(named) == sorted(changes)
    status, out, _ = command("verify", path, "--tolerance=1e-9")
    assert status == 1
    assert out.count("\nFAILS") > 100


@pytest.mark.usefixtures("computed_once")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config_json": None}, "has no config_json"),
        ({"out/new": np.zeros(3)}, "out/new"),
        ({"out/backbone/1": None}, "out/backbone/1"),
        ({"grad/foreign": np.zeros(3)}, "grad/foreign"),
        ({"grad_norms_json": np.frombuffer(b'{"foreign": 1}', np.uint8)}, "of other weights"),
        ({"config_json": np.frombuffer(b"[", np.uint8)}, "cannot be read"),
        ({"config_json": np.frombuffer(b'{"num_queries": 9}', np.uint8)}, "expected 8"),
    ],
)
def test_files_of_another_layout(refused, tmp_path, changes, message):
    assert message in refused("verify", rewritten(tmp_path / "changed.npz", **changes))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("draws/24", "has 24 draws, expected 5 predictions x (3 frames + 2)"),
        ("in/pixel_values", "has no in/pixel_values"),
        ("in/mask_labels/1", "has no in/mask_labels/1"),
    ],
)
def test_what_computing_needs(refused, tmp_path, name, message):
    assert message in refused("verify", rewritten(tmp_path / "less.npz", **{name: None}))


def test_weights_are_checked(refused, tmp_path):
    state = {f"state/{name}": None for name in reference(1).state if "avs_adapt" in name}
    assert "adapters" in refused("verify", rewritten(tmp_path / "1.npz", **state))
    state = {"state/class_predictor.bias": None}
    assert "class_head/bias" in refused("verify", rewritten(tmp_path / "2.npz", **state))


def test_damaged_files(refused, tmp_path):
    assert "no such file" in refused("verify", tmp_path / "none.npz")
    path = tmp_path / "damaged.npz"
    whole = FILE.read_bytes()
    for damaged in (whole[:-1000], whole[: len(whole) // 2], b"", b"text"):
        path.write_bytes(damaged)
        assert "cannot be read" in refused("verify", path)
    np.savez(path, config_json=np.array([{"an": "object"}], dtype=object))
    assert "cannot be read" in refused("verify", path)


def test_arrays_that_claim_to_be_huge(refused, tmp_path):
    path, header = tmp_path / "huge.npz", io.BytesIO()
    description = {"descr": "<f4", "fortran_order": False, "shape": (10**13,)}
    np.lib.format.write_array_header_1_0(header, description)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config_json.npy", header.getvalue())
    assert "cannot be read" in refused("verify", path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.npy", b"")
    # 64 GiB, as the list of the archive says.
    content, size = path.read_bytes(), struct.pack("<I", 0xFFFFFFF0)
    start = content.rindex(b"PK\x01\x02")
    entry = bytearray(content[start : start + 51])
    entry[24:28] = size
    end = bytearray(content[start + 51 :])
    end[8:12] = struct.pack("<HH", 5, 5)
    end[12:16] = struct.pack("<I", 5 * len(entry))
    path.write_bytes(content[:start] + bytes(entry) * 5 + bytes(end))
    assert "unpacked; expected 16 at most" in refused("verify", path)


def test_relative_error():
    assert relative_error(np.array([1.0, 2.0]), np.array([1.0, 4.0])) == 0.5
    assert relative_error(np.zeros(2), np.zeros(2)) == 0
    assert relative_error(np.ones(2), np.zeros(2)) == float("inf")
    assert relative_error(np.ones(2), np.ones(3)) == float("inf")
    nan = relative_error(np.array([1.0, np.nan]), np.ones(2))
    assert not Difference("x", nan, 1.0).fits


def test_a_failure_among_many_shows_in_the_table():
    rows = [Difference(f"layers.{i}.bias", 0.0, 1e-4) for i in range(3)]
    rows.append(Difference("layers.3.bias", float("nan"), 1e-4))
    (_, line) = table(rows).splitlines()
    assert line.split() == ["layers.*.bias", "4", "nan", "1e-04", "FAILS"]
