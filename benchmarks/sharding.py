"""Is a training the same on any mesh? What does a restart cost?

    python -m benchmarks.sharding [--steps=20] [--prepared=DIR] [--meshes=1x1,2x1,4x1,8x1,4x2]

Trains the binary stage of configs/demo.py, as it is, on CPU devices, once a mesh (data x fsdp),
each in a process of its own; prints the largest relative difference of losses, and the largest of
scores, to the first mesh. Then, for what rounding alone does to such a run, the first mesh compiled
without most of XLA's optimisations. Then the last mesh again, beside what the run before it
compiled and kept: seconds from the start of the process to the end of the first step.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

from configs import demo
from ssp_jax.devices import add_threads
from ssp_jax.places import define_path
from ssp_jax.run import run

_STEPS = flags.DEFINE_integer("steps", 20, "Of each training.", 1)
_PREPARED = define_path("prepared", "prepared", "Prepared data.")
_MESHES = flags.DEFINE_list("meshes", ["1x1", "2x1", "4x1", "8x1", "4x2"], "data x fsdp.")
_WORKDIR = define_path("workdir", None, "Of one training on --meshes, in this process.")


def train(mesh: str, workdir: Path) -> None:
    """Trains and scores on one mesh, says when the first step is done."""
    data, fsdp = map(int, mesh.split("x"))
    jax.config.update("jax_num_cpu_devices", data * fsdp)
    add_threads()
    config = demo.get_config()
    config.stages, config.prepared_dir, config.log_every = "avs", _PREPARED.value, 1
    config.avs.steps = config.avs.eval_every = _STEPS.value
    config.mesh.data, config.mesh.fsdp = data, fsdp
    run(config, workdir, brief=True)


def first_step(mesh: str, workdir: Path, **variables: str) -> float:
    """Seconds from the start of a process, with these variables, to the first line of metrics."""
    lines, start = workdir / "avs/metrics.jsonl", time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.sharding", f"--meshes={mesh}"]
    command += [f"--workdir={workdir}", f"--prepared={_PREPARED.value}", f"--steps={_STEPS.value}"]
    environment = os.environ | variables
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
    while not (lines.exists() and lines.stat().st_size) and process.poll() is None:
        time.sleep(0.1)
    seconds = time.perf_counter() - start
    if process.wait():
        raise RuntimeError(f"{mesh}: the training failed; see {' '.join(command)}")
    return seconds


def read(workdir: Path) -> tuple[np.ndarray, np.ndarray]:
    """(losses of all steps, scores of all test sets) of a run."""
    lines = [json.loads(line) for line in (workdir / "avs/metrics.jsonl").open()]
    results = json.loads((workdir / "results.json").read_text())
    scores = [results[name][metric] for name in sorted(results) for metric in ("miou", "fscore")]
    return np.array([line["loss"] for line in lines if "loss" in line]), np.array(scores)


def main(argv):
    """Prints the table, a row as soon as it is done."""
    del argv
    if _WORKDIR.value:
        train(_MESHES.value[0], Path(_WORKDIR.value))
        return
    print("| mesh, data x fsdp | first step after, s | losses differ by | scores differ by |")
    print("|---|---|---|---|")
    one, plain = _MESHES.value[0], {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    rows = {mesh: (mesh, {}) for mesh in _MESHES.value} | {f"{one}, otherwise": (one, plain)}
    with tempfile.TemporaryDirectory() as folder:
        for title, (mesh, variables) in rows.items():
            seconds = first_step(mesh, Path(folder, title), **variables)
            losses, scores = read(Path(folder, title))
            if title == one:
                first = losses, scores
            loss = np.abs(losses / first[0] - 1).max()
            score = np.abs(scores - first[1]).max()
            print(f"| {title} | {seconds:.0f} | {loss:.1e} | {score:.1e} |", flush=True)
        mesh = _MESHES.value[-1]
        again = Path(folder, "again")
        shutil.copytree(Path(folder, mesh, "compiled"), again / "compiled")
        print(f"| {mesh}, again | {first_step(mesh, again):.0f} | | |")


if __name__ == "__main__":
    app.run(main)
