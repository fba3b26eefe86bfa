"""Project and PyTorch on the same machine: time and memory of a forward pass and of training steps.

    python -m benchmarks.against_pytorch [--rows=forward,avs:phase1,...] [--frames=5] [--rounds=3]

The peer is transformers' Mask2Former with AAVS's trainable parts (benchmarks/peer.py). Both run in
processes of their own with as many threads as there are cores, take turns, and see the same frames
and labels, at 384 px; the forward pass has the same weights too, and its outputs are compared.
Prints medians, ratios and peak memory (of a process, compilation included). Needs the extra
`parity`.
"""

import functools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import app, flags

_ROWS = flags.DEFINE_list(
    "rows",
    [
        "forward",
        "evaluation",
        "avs:phase1",
        "avs:phase2",
        "avs:all",
        "avss:phase1",
        "avss:phase2",
        "avss:all",
    ],
    "forward, evaluation (of AVSS: masks, label maps, mIoU and F), or stage:phase.",
)
_FRAMES = flags.DEFINE_integer("frames", 5, "Frames of a batch.", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Timed turns of each, after one that is not.", 1)
_KEPT = flags.DEFINE_bool(
    "kept_features", True, "Phase 1 reads what the frozen encoder makes of the frames."
)
_ACCUMULATE = flags.DEFINE_integer("accumulate", 5, "Parts of the project's batch.", 1)
_WORKER = flags.DEFINE_string("worker", None, "project or peer: one side of a row, by stdin.")
_FOLDER = flags.DEFINE_string("folder", None, "Where the sides of a forward pass meet.")


class Side:
    """A worker process."""

    def __init__(self, side: str, row: str, folder: str):
        command = [sys.executable, "-m", "benchmarks.against_pytorch", f"--worker={side}"]
        command += [f"--rows={row}", f"--frames={_FRAMES.value}", f"--folder={folder}"]
        command += [f"--kept_features={_KEPT.value}", f"--accumulate={_ACCUMULATE.value}"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.ready = self._read()

    def _read(self) -> dict:
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"{self._process.args}: ended with {self._process.wait()}")

    def turn(self) -> float:
        """Seconds of one run."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._read()["seconds"]

    def end(self) -> float:
        """Peak memory in GB."""
        self._process.stdin.close()
        peak = self._read()["gb"]
        self._process.wait()
        return peak


def _project(row: str, folder: Path):
    """(a run of the project's, seconds of compilation)."""
    # The other side of a row may have no JAX, nor this one torch.
    import jax

    from benchmarks.full_size import avss_evaluation, full_size_step, mask2former_forward

    if row == "forward":
        call, arguments = mask2former_forward(folder / "hub", _FRAMES.value)
        start = time.perf_counter()
        compiled = jax.jit(call).lower(*arguments).compile()
        seconds = time.perf_counter() - start
        outputs = compiled(*arguments)
        np.savez(folder / "project.npz", **{k: np.asarray(v) for k, v in outputs.items()})
        return lambda: jax.block_until_ready(compiled(*arguments)), seconds
    if row == "evaluation":
        return avss_evaluation(_FRAMES.value), 0.0
    stage, phase = row.split(":")
    # In phase 1 the encoder is frozen: a run with config.data.kept_features computes it once.
    kept = phase == "phase1" and _KEPT.value
    setup = full_size_step(
        stage, phase, frames=_FRAMES.value, kept_features=kept, accumulate=_ACCUMULATE.value
    )
    state = setup.state
    start = time.perf_counter()
    compiled = setup.step.lower(state, setup.batch, setup.key, 0).compile()
    seconds = time.perf_counter() - start

    def run():
        nonlocal state
        state, scalars = compiled(state, setup.batch, setup.key, int(state.step))
        jax.block_until_ready(state)
        return float(scalars["loss"])

    return run, seconds


def _peer(row: str, folder: Path):
    import torch

    from benchmarks import peer
    from benchmarks.full_size import random_batch

    torch.set_num_threads(os.cpu_count())
    torch.manual_seed(0)
    if row == "forward":
        model, batch = peer.mask2former(71, 100), random_batch("avss", _FRAMES.value)
        model.save_pretrained(folder / "hub")
        run = peer.forward(model, batch)
        outputs = run()
        np.savez(
            folder / "peer.npz",
            mask_logits=outputs.masks_queries_logits.numpy(),
            class_logits=outputs.class_queries_logits.numpy(),
        )
        return run, 0.0
    if row == "evaluation":
        return peer.avss_evaluation(random_batch("avss", _FRAMES.value)), 0.0
    stage, phase = row.split(":")
    given = peer.inputs(random_batch(stage, _FRAMES.value))
    return functools.partial(peer.train_step(peer.aavs(stage), phase), given), 0.0


def _work() -> None:
    """One side: a line when ready, one a turn, one at the end."""
    make = {"project": _project, "peer": _peer}[_WORKER.value]
    run, compile_seconds = make(_ROWS.value[0], Path(_FOLDER.value))
    run()
    print(json.dumps({"compile": compile_seconds}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(json.dumps({"gb": peak}), flush=True)


def _difference(folder: Path) -> float:
    """Largest difference of the two sides' outputs, as a share of the largest value."""
    ours, theirs = np.load(folder / "project.npz"), np.load(folder / "peer.npz")
    return max(
        float(np.abs(ours[name] - theirs[name]).max() / np.abs(theirs[name]).max())
        for name in theirs.files
    )


def main(argv):
    """Prints the table, a row as soon as it is done."""
    if _WORKER.value:
        _work()
        return
    print(f"Swin-B, {_FRAMES.value} frames of 384 px, float32, {os.cpu_count()} cores\n")
    print("| | PyTorch, s | ssp_jax, s | ratio | PyTorch, GB | ssp_jax, GB | ratio | compile, s |")
    print("|---|---|---|---|---|---|---|---|")
    for row in _ROWS.value:
        with tempfile.TemporaryDirectory() as folder:
            # One after the other: the project reads the weights that the peer saves.
            peer, project = (Side(side, row, folder) for side in ("peer", "project"))
            turns = np.array([(peer.turn(), project.turn()) for _ in range(_ROUNDS.value)])
            theirs, ours = np.median(turns, axis=0)
            memory = peer.end(), project.end()
            print(
                f"| {row} | {theirs:.2f} | {ours:.2f} | {ours / theirs:.2f} "
                f"| {memory[0]:.1f} | {memory[1]:.1f} | {memory[1] / memory[0]:.2f} "
                f"| {project.ready['compile']:.0f} |",
                flush=True,
            )
            if row == "forward":
                print(f"outputs differ by {_difference(Path(folder)):.1e}", file=sys.stderr)


if __name__ == "__main__":
    app.run(main)
