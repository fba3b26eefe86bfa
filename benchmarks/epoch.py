"""One epoch of S4's phase 1 at full size, data loading included, beside a PyTorch loop.

    python -m benchmarks.epoch [--clips=8] [--rounds=2]

The data lie in S4's folder layout, generated, and are read from there: by the project through its
builder, its pipeline and `stage_training`; by the peer through a DataLoader that decodes PNG and
WAV and computes VGGish for every clip in every epoch. AAVS runs five frames of a clip that has one
annotated frame: that is `peer, 5 frames`. Both train the same parts of a Swin-B at 384 px, two
clips a step, float32, random weights. Prints seconds a clip, hours an epoch of S4's 3,452 clips,
and what the project does once. Needs the extra `parity`.
"""

import contextlib
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
from absl import app, flags

from configs import s4
from ssp_jax.data.datasets import open_datasets
from ssp_jax.kept_features import keep_features
from ssp_jax.stage import Stage
from ssp_jax.stage_training import phase_step, training_batches
from ssp_jax.train_step import compile_once
from tfds_builders.avs_builtin.export import export

_CLIPS = flags.DEFINE_integer("clips", 8, "Of an epoch that is timed; an even number.", 2)
_ROUNDS = flags.DEFINE_integer("rounds", 2, "Timed turns of each, after one that is not.", 1)
_BATCH = 2


def _project(folder: Path, kept: bool) -> tuple[Callable[[], int], dict[str, float]]:
    """(an epoch, seconds of what is done once)."""
    config = s4.get_config("aavs")
    config.protocol, config.data_dir = "official", str(folder)
    config.prepared_dir, config.init_from = str(folder / "prepared"), "random weights serve here"
    config.avs.val, config.avs.test = {}, {}
    config.allow_missing = True
    start = time.perf_counter()
    stage = Stage(config, "avs", open_datasets(config, ("s4:train",)), folder / "run")
    once = {"preparing": time.perf_counter() - start}
    phase = stage.phases[0]
    state = phase.states.new(jax.random.key(0))
    features = None
    if kept:
        start = time.perf_counter()
        features = keep_features(
            stage.data.source("s4:train"),
            stage.graphdef,
            state.params,
            stage.mesh,
            settings={},
            frame_size=stage.spec.frame_size,
            dtype="float32",
            kept_in="float32",
            visits=_CLIPS.value,
            progress=False,
        )
        once["features"] = time.perf_counter() - start
    step = compile_once(phase_step(stage, phase), "avs")
    batches = training_batches(stage, features)

    def run() -> int:
        nonlocal state
        for _ in range(_CLIPS.value // _BATCH):
            batch = stage.put(next(batches))
            state, _ = step(state, batch, jax.random.key(0), int(state.step))
        jax.block_until_ready(state)
        return _CLIPS.value

    return run, once


def main(argv):
    """Prints the table."""
    # The project's side alone needs no torch.
    from benchmarks import peer

    logging.getLogger("ssp_jax").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as root, contextlib.redirect_stdout(None):
        folder = Path(root, "data")
        export(folder, "tiny", layout="s4", progress=False)
        single = folder / "Single-source"
        sides, once = {}, {}
        for name, kept in (("ssp_jax", False), ("ssp_jax, kept features", True)):
            sides[name], once[name] = _project(folder, kept)
        for frames in (5, 1):
            sides[f"peer, {frames} frame{'s' * (frames > 1)}"] = peer.s4_epoch(
                single, frames, _BATCH, num_workers=os.cpu_count()
            )
        seconds = {name: [] for name in sides}
        for turn in range(_ROUNDS.value + 1):
            for name, run in sides.items():
                start = time.perf_counter()
                clips = run()
                if turn:
                    seconds[name].append((time.perf_counter() - start) / clips)
    print("| | s a clip | h an epoch of S4 | of the peer's | once, s a clip |")
    print("|---|---|---|---|---|")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in medians.items():
        first = sum(once.get(name, {}).values()) / _CLIPS.value
        print(
            f"| {name} | {value:.2f} | {value * s4.CLIPS / 3600:.2f} "
            f"| {value / medians['peer, 5 frames']:.2f} | {first:.2f} |"
        )


if __name__ == "__main__":
    app.run(main)
