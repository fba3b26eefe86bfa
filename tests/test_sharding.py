"""A training is the same on any mesh of devices."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ssp_jax.errors import UserError
from ssp_jax.sharding import make_mesh

ROOT = Path(__file__).parent.parent
# 1, 8 and 4 x 2 devices; the others where there is time.
MESHES = ["1x1", "8x1", "4x2"] + (["2x1", "4x1"] if os.environ.get("SSP_JAX_SLOW") == "1" else [])
# Rounding, which differs from mesh to mesh, turns into more at every kink: a query matched to
# another target, a point chosen as uncertain, a key that attention may see. So with small rates,
# and with enough points that one does not matter: then losses differ by 5e-7. At five times the
# rates kinks come, and scores differ by 2e-4.
# There are more devices than a mesh has: XLA has a thread for each, and collectives that need not
# wait for each other block several threads of a device. With 8, all 8 soon wait for a ninth.
_TRAIN = """
import sys
from pathlib import Path
import jax
jax.config.update("jax_num_cpu_devices", 64)
from ssp_jax.run import run
from tests.tiny_run import get_config

for mesh in sys.argv[3:]:
    config = get_config(sys.argv[1])
    config.stages, config.avs.steps, config.avs.eval_every = "avs", 20, 20
    config.avs.optim.lr, config.avs.optim.muon_lr = 2e-5, 2e-4
    config.avs.criterion.num_points = 2048
    config.mesh.data, config.mesh.fsdp = map(int, mesh.split("x"))
    run(config, Path(sys.argv[2], mesh), brief=True)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(loss and gradient norm of 20 steps, results) on each mesh."""
    folder = tmp_path_factory.mktemp("meshes")
    command = [sys.executable, "-c", _TRAIN, str(folder / "prepared"), str(folder), *MESHES]
    subprocess.run(command, cwd=ROOT, check=True)
    steps, results = [], []
    for mesh in MESHES:
        lines = [json.loads(line) for line in (folder / mesh / "avs/metrics.jsonl").open()]
        steps.append([(line["loss"], line["grad_norm"]) for line in lines if "loss" in line])
        results.append(json.loads((folder / mesh / "results.json").read_text()))
    return steps, results


def test_losses_are_the_same_on_any_mesh(trained):
    steps, _ = trained
    assert len(steps[0]) == 20
    assert steps[0][-1][0] < steps[0][0][0]
    for other in steps[1:]:
        np.testing.assert_allclose(other, steps[0], rtol=1e-4)


def test_metrics_are_the_same_on_any_mesh(trained):
    _, results = trained
    for other in results[1:]:
        for name, values in results[0].items():
            for metric in ("miou", "fscore"):
                assert other[name][metric] == pytest.approx(values[metric], abs=1e-4)


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
