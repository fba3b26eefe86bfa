"""What saving costs a training: python -m benchmarks.saving [--size=base] [--stages=avs,avss]

Trains stages of `configs/avss.py:aavs` at the real size, with random weights and frames, and saves
now and then, as the loop does. A save holds the loop while the state is copied and its checksums
are taken, and slows the steps while it is written in the background. Steps with a save and steps
without take turns; prints both, and which share of the time `config.save_every_minutes` costs.
"""

import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

from benchmarks.full_size import full_size_step
from ssp_jax.checkpoints import Checkpoints
from ssp_jax.command_line import show_own_log
from ssp_jax.config import base

_SIZE = flags.DEFINE_string("size", "base", "A size of ssp_jax/models/sizes.py.")
_STAGES = flags.DEFINE_list("stages", ["avs", "avss"], "avs: 2 classes, avss: 71.")
_PHASE = flags.DEFINE_enum("phase", "phase2", ["phase1", "phase2", "all"], "What trains.")
_FRAMES = flags.DEFINE_integer("frames", 2, "Frames of a step.", 1)
_SAVES = flags.DEFINE_integer("saves", 3, "How often.", 1)


def measure(name: str, folder: Path) -> dict[str, float]:
    """Seconds of a step, seconds that a save holds the loop, and that it costs in all."""
    setup = full_size_step(
        name, _PHASE.value, size=_SIZE.value, frames=_FRAMES.value, frame_size=_frame_size()
    )
    state, number, held, with_save, without = setup.state, 0, [], [], []
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    compiled = setup.step.lower(state, setup.batch, setup.key, 0).compile()
    with Checkpoints(folder) as checkpoints:

        def train(saves: bool) -> float:
            """Seconds of as many steps as writing in the background takes."""
            nonlocal state, number
            begin = time.perf_counter()
            if saves:
                checkpoints.save(state, {"next_batch": number})
                held.append(time.perf_counter() - begin)
            for _ in range(steps):
                state, scalars = compiled(state, setup.batch, setup.key, number)
                number += 1
                scalars["loss"].block_until_ready()
            seconds = time.perf_counter() - begin
            checkpoints.wait()
            return seconds

        steps = 2
        train(True)  # what is done once
        begin = time.perf_counter()
        checkpoints.save(state, {"next_batch": number})
        checkpoints.wait()
        writing = time.perf_counter() - begin
        steps = max(2, round(writing / (train(False) / steps)) + 1)
        held.clear()
        for _ in range(_SAVES.value):
            without.append(train(False))
            with_save.append(train(True))
    return {
        "gb": size / 1e9,
        "step": float(np.median(without)) / steps,
        "held": float(np.median(held)),
        "writing": writing,
        "cost": float(np.median(np.subtract(with_save, without))),
    }


def _frame_size() -> int:
    return 384 if _SIZE.value == "base" else 96


def main(argv):
    """Prints the table."""
    del argv
    show_own_log()
    minutes = base().save_every_minutes
    print(f"{_SIZE.value}, {_PHASE.value}, {_FRAMES.value} frames a step")
    print(
        "| stage | state, GB | step, s | a save holds the loop, s | is on disk after, s | costs in "
        f"all, s | of {minutes:g} minutes |\n|---|---|---|---|---|---|---|"
    )
    for name in _STAGES.value:
        with tempfile.TemporaryDirectory(prefix="ssp_jax_saving_") as folder:
            row = measure(name, Path(folder))
        print(
            f"| {name} | {row['gb']:.2f} | {row['step']:.2f} | {row['held']:.2f} | "
            f"{row['writing']:.2f} | {row['cost']:.2f} | {row['cost'] / (60 * minutes):.2%} |",
            flush=True,
        )


if __name__ == "__main__":
    app.run(main)
