"""A training is the same on any mesh of devices, and can be used on any other."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks.device_counts import LIMITS, differences, exported, handed_on, predicted
from ssp_jax.errors import UserError
from ssp_jax.run import run
from ssp_jax.run_facts import run_config
from ssp_jax.sharding import make_mesh

ROOT = Path(__file__).parent.parent
# 1 device, and 8 by data and fsdp; the others where there is time.
_OTHERS = ["8x1", "2x1", "4x1"] if os.environ.get("SSP_JAX_SLOW") == "1" else []
MESHES = ["1x1", "4x2", *_OTHERS]
# Rounding, which differs from mesh to mesh, turns into more at every kink: a query matched to
# another target, a point chosen as uncertain, a key that attention may see. So with small rates,
# and with enough points that one does not matter: then losses differ by 5e-7. At five times the
# rates kinks come, and scores differ by 2e-4.
_TRAIN = """
import sys
from pathlib import Path
import jax
jax.config.update("jax_num_cpu_devices", 8)
from ssp_jax.devices import add_threads
add_threads()
import numpy as np
from benchmarks.device_counts import predicted
from ssp_jax.run import run
from tests.tiny_run import get_config

for mesh in sys.argv[3:]:
    config = get_config(sys.argv[1])
    config.stages, config.avs.steps, config.avs.eval_every = "avs", 20, 10
    config.avs.optim.lr, config.avs.optim.muon_lr = 2e-5, 2e-4
    config.avs.criterion.num_points = 2048
    config.mesh.data, config.mesh.fsdp = map(int, mesh.split("x"))
    run(config, Path(sys.argv[2], mesh), brief=True)
    np.save(Path(sys.argv[2], mesh, "predicted.npy"), predicted(Path(sys.argv[2], mesh)))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder with a run a mesh, loss and gradient norm of 20 steps of each, results of each)."""
    folder = tmp_path_factory.mktemp("meshes")
    command = [sys.executable, "-c", _TRAIN, str(folder / "prepared"), str(folder), *MESHES]
    subprocess.run(command, cwd=ROOT, check=True)
    steps, results = [], []
    for mesh in MESHES:
        lines = [json.loads(line) for line in (folder / mesh / "avs/metrics.jsonl").open()]
        steps.append([(line["loss"], line["grad_norm"]) for line in lines if "loss" in line])
        results.append(json.loads((folder / mesh / "results.json").read_text()))
    return folder, steps, results


def test_losses_are_the_same_on_any_mesh(trained):
    _, steps, _ = trained
    assert len(steps[0]) == 20
    assert steps[0][-1][0] < steps[0][0][0]
    for other in steps[1:]:
        np.testing.assert_allclose(other, steps[0], rtol=1e-4)


def test_metrics_are_the_same_on_any_mesh(trained):
    _, _, results = trained
    for other in results[1:]:
        for name, values in results[0].items():
            for metric in ("miou", "fscore"):
                assert other[name][metric] == pytest.approx(values[metric], abs=1e-4)


@pytest.mark.skipif(jax.device_count() > 1, reason="here are other devices than one CPU's")
def test_what_eight_devices_trained_one_uses(trained, caplog):
    # By `fsdp`, so that no device had a whole parameter. `python -m benchmarks.device_counts` is
    # the same between any two numbers.
    folder, _, _ = trained
    run_of_eight = folder / "4x2"
    scores = np.load(run_of_eight / "predicted.npy")  # on the eight
    for used in (predicted, handed_on):
        np.testing.assert_allclose(used(run_of_eight), scores, atol=1e-5)
    assert exported(run_of_eight).shape[0] == 3
    again = folder / "again"
    shutil.copytree(run_of_eight, again)
    shutil.rmtree(again / "avs/checkpoints/last/20")
    config = run_config(again)
    config.mesh.fsdp, config.mesh.data, config.prepared_dir = 1, 0, str(folder / "prepared")
    with caplog.at_level("INFO", "ssp_jax"):
        run(config, again, brief=True)
    assert "goes on with devices '1 x cpu', was '8 x cpu'; " in caplog.text
    assert "mesh.fsdp 1, was 2" in caplog.text
    assert "at step 10" in caplog.text
    losses = [_losses(run) for run in (run_of_eight, again)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_what_one_device_trained_eight_use(trained):
    folder, _, _ = trained
    one = folder / "1x1"
    np.testing.assert_allclose(predicted(one), np.load(one / "predicted.npy"), atol=1e-5)


@pytest.mark.skipif(
    os.environ.get("SSP_JAX_SLOW") != "1", reason="ten minutes on two cores: SSP_JAX_SLOW=1"
)
def test_what_any_number_of_devices_trained_any_other_uses(tmp_path):
    for mesh, devices, found in differences(str(tmp_path / "prepared"), (1, 2, 4), tmp_path):
        for what, limit in LIMITS.items():
            assert found[what] <= limit, (mesh, devices, what)


def _losses(workdir):
    lines = [json.loads(line) for line in (workdir / "avs/metrics.jsonl").open()]
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    return [losses[step] for step in range(1, 21)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fsdp": 3}, "config.mesh.fsdp=3: expected a divisor of the number of devices, "),
        ({"data": 2, "fsdp": 4096}, "are 8192 devices, but there are "),
        ({"data": -1}, "config.mesh"),
    ],
)
def test_impossible_meshes_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        make_mesh(**arguments)


class _FakeTpu:
    """A chip of a v5e slice of 2 x 4, as `mesh_utils` looks at it."""

    platform, device_kind, core_on_chip = "tpu", "TPU v5 lite", 0

    def __init__(self, number, chips=8):
        self.id, self.slice_index = number, number // chips
        self.process_index = number // 4
        self.coords = (number % chips % 2, number % chips // 2, 0)


@pytest.mark.parametrize(
    ("slices", "fsdp", "shape"), [(2, 1, (16, 1)), (2, 4, (4, 4)), (4, 8, (4, 8)), (2, 16, (1, 16))]
)
def test_parameters_are_split_within_a_slice(slices, fsdp, shape, monkeypatch):
    devices = [_FakeTpu(number) for number in range(8 * slices)]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    monkeypatch.setattr(jax, "device_count", lambda: len(devices))
    mesh = make_mesh(fsdp=fsdp)
    assert (mesh.devices.shape, mesh.axis_names) == (shape, ("data", "fsdp"))
    assert {device.id for device in mesh.devices.flat} == set(range(8 * slices))
    for row in mesh.devices:  # what shares one copy of the state
        assert len({device.slice_index for device in row}) == max(1, fsdp // 8)
    # As many rows of each slice.
    of_rows = [row[0].slice_index for row in mesh.devices]
    assert fsdp > 8 or sorted(of_rows) == sorted(list(range(slices)) * (shape[0] // slices))
