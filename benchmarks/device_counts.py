"""Can what was trained on some devices be used on others, and is it the same there?

    python -m benchmarks.device_counts [--prepared=DIR] [--counts=1,2,4]

Trains the binary stage of tests/tiny_run.py on each number of CPU devices, by `mesh.data` and by
`mesh.fsdp`, each in a process that has so many. Then, in a process of each number, uses each of
these runs: predicts, exports, pushes and pulls, evaluates, and goes on with the training from its
middle. Prints a table, trained on by used on: the largest difference of class scores, of what the
evaluation gives (mIoU, F-score), and the largest relative one of losses, to the same use on as many
devices as trained the run.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags
from jaxtyping import Float
from ml_collections import ConfigDict

from ssp_jax import evaluate
from ssp_jax.devices import add_threads
from ssp_jax.export import export_run
from ssp_jax.hub import __main__ as hub
from ssp_jax.predict import Predictor
from ssp_jax.predict.clips import PlainClip
from ssp_jax.run import run
from tests.tiny_run import get_config

_PREPARED = flags.DEFINE_string("prepared", "prepared", "Prepared data.")
_COUNTS = flags.DEFINE_list("counts", ["1", "2", "4"], "Numbers of devices.")
_TRAIN = flags.DEFINE_list("train", None, "Folder and mesh of a training in this process.")
_USE = flags.DEFINE_list("use", None, "Folder whose runs are used in this process, and a new one.")

STEPS, MIDDLE = 6, 3
KEYS = ("miou", "fscore", "activated")
# Of scores; of what an evaluation counts, where a pixel may tip over; of losses, whose rounding
# grows with the steps.
LIMITS = {"scores": 1e-5, "evaluation": 1e-4, "losses": 1e-4}


def config_of(prepared: str, mesh: str) -> ConfigDict:
    """Return the config of a training on a mesh, '4x1' for four by data.

    With small rates and many points, so that rounding stays rounding, see tests/test_sharding.py.
    """
    config = get_config(prepared)
    config.stages, config.avs.steps, config.avs.eval_every = "avs", STEPS, MIDDLE
    config.avs.optim.lr, config.avs.optim.muon_lr = 2e-5, 2e-4
    config.avs.criterion.num_points = 2048
    config.report = False
    config.mesh.data, config.mesh.fsdp = map(int, mesh.split("x"))
    return config


def predicted(trained: Path) -> Float[np.ndarray, "T K s s"]:
    """Return scores of three seconds of noise."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (3, 64, 80, 3), np.uint8)
    sound = rng.integers(-9999, 9999, 48_000).astype(np.int16)
    return Predictor.from_run(trained).scores(PlainClip(frames, sound))


def exported(trained: Path) -> Float[np.ndarray, "N K h w"]:
    """Return scores of noise by the exported function."""
    with tempfile.TemporaryDirectory() as folder:
        served = Path(folder, "served")
        inputs = random_inputs(export_run(trained, served))
        function = jax.export.deserialize((served / "function.bin").read_bytes())
        with np.load(served / "weights.npz") as weights:
            return np.asarray(jax.jit(function.call)(dict(weights), inputs)[1])


def random_inputs(facts: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return noise of three seconds, as `facts.json` of an export says that its inputs are."""
    rng = np.random.default_rng(1)
    return {
        name: (255 * rng.random((3, *shape))).astype(dtype)
        for name, (_, *shape, dtype) in facts["inputs"].items()
    }


def handed_on(trained: Path) -> Float[np.ndarray, "T K s s"]:
    """Return what `predicted` does, by the run as pushed and pulled."""
    with tempfile.TemporaryDirectory() as folder:
        hub.run(["push", str(trained), f"--to={folder}/pushed"])
        hub.run(["pull", f"{folder}/pushed", f"--out={folder}/pulled"])
        return predicted(Path(folder, "pulled"))


def evaluated(trained: Path) -> Float[np.ndarray, " values"]:
    """Return mIoU, F-score and share of activated pixels of each test set."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "scored")
        evaluate.run([f"--weights={trained}", f"--workdir={out}", "--config.negative_sounds="])
        results = json.loads((out / "results.json").read_text())
    return np.array(
        [result[key] for _, result in sorted(results.items()) for key in KEYS], np.float64
    )


def gone_on(trained: Path, prepared: str) -> Float[np.ndarray, " steps"]:
    """Return the losses of the second half, trained again on the devices that are here."""
    by_fsdp = not trained.name.endswith("x1")
    devices = jax.device_count()
    mesh = f"1x{devices}" if by_fsdp else f"{devices}x1"
    with tempfile.TemporaryDirectory() as folder:
        again = Path(folder, "again")
        shutil.copytree(trained, again)
        shutil.rmtree(again / f"avs/checkpoints/last/{STEPS}")
        run(config_of(prepared, mesh), again, brief=True)
        lines = [json.loads(line) for line in (again / "avs/metrics.jsonl").open()]
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    return np.array([losses[step] for step in range(MIDDLE + 1, STEPS + 1)])


def use(folder: Path, out: Path, prepared: str) -> None:
    """Use all runs of the folder, here; write what each gives to `out`/MESH.npz."""
    out.mkdir()
    for trained in sorted(folder.iterdir()):
        scores = predicted(trained), exported(trained), handed_on(trained)
        np.savez(
            out / f"{trained.name}.npz",
            scores=np.concatenate([x.ravel() for x in scores]),
            evaluation=evaluated(trained),
            losses=gone_on(trained, prepared),
        )


def in_process(devices: int, *arguments: str) -> None:
    """Run this program with these arguments where there are so many CPU devices."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    command = [sys.executable, "-m", "benchmarks.device_counts", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}, on {devices} devices: {done.stderr[-4000:]}")


def differences(prepared: str, counts: Sequence[int], folder: Path) -> Iterator[tuple]:
    """Train and use; yield (mesh, devices, {'scores': ..., 'losses': ...}) of each use."""
    meshes = {f"{n}x1": n for n in counts} | {f"1x{n}": n for n in counts}
    common = [f"--prepared={prepared}"]
    for mesh, devices in meshes.items():
        in_process(devices, *common, f"--train={folder / 'trained' / mesh},{mesh}")
    for devices in counts:
        in_process(devices, *common, f"--use={folder / 'trained'},{folder / str(devices)}")
    for mesh, own in meshes.items():
        expected = np.load(folder / str(own) / f"{mesh}.npz")
        for devices in counts:
            found = np.load(folder / str(devices) / f"{mesh}.npz")
            by = {k: np.abs(found[k] - expected[k]).max() for k in ("scores", "evaluation")}
            by["losses"] = np.abs(found["losses"] / expected["losses"] - 1).max()
            yield mesh, devices, {name: float(by[name]) for name in LIMITS}


def main(argv):
    """Prints the table."""
    del argv
    add_threads()
    if _TRAIN.value:
        folder, mesh = _TRAIN.value
        run(config_of(_PREPARED.value, mesh), Path(folder), brief=True)
        return
    if _USE.value:
        use(*map(Path, _USE.value), _PREPARED.value)
        return
    counts, rows = [int(count) for count in _COUNTS.value], {}
    with tempfile.TemporaryDirectory() as folder:
        for mesh, _, found in differences(_PREPARED.value, counts, Path(folder)):
            cell = ", ".join(f"{difference:.0e}" for difference in found.values())
            rows.setdefault(mesh, []).append(cell)
    print(f"of {', '.join(LIMITS)}")
    print(f"| trained on, data x fsdp | {' | '.join(f'used on {n}' for n in counts)} |")
    print("|---" * (1 + len(counts)) + "|")
    for mesh, cells in rows.items():
        print(f"| {mesh} | {' | '.join(cells)} |")


if __name__ == "__main__":
    app.run(main)
