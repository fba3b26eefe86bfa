"""What negatives in training do: the demo without and with them, under every sound.

    python -m benchmarks.robustness [--runs=runs/robustness] [--share=0.2] [--seeds=0]

Trains both stages of configs/demo.py once without and once with a share of the clips whose sound
is replaced (silence, noise and off-screen sounds in equal parts) and whose truth is empty, and
prints mIoU / F-score and activated pixels / G-mIoU of each, in per cent. Every run has a folder of
its own below --runs: the same command again goes on where it stopped.
"""

from pathlib import Path

import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from configs import demo
from ssp_jax.command_line import show_own_log
from ssp_jax.evaluators.report import format_table
from ssp_jax.places import define_path
from ssp_jax.run import run

_RUNS = define_path("runs", "runs/robustness", "Folder of the runs.")
_PREPARED = define_path("prepared_dir", "prepared", "As config.prepared_dir.")
_SHARE = flags.DEFINE_float("share", 0.2, "Of the clips with a replaced sound.", 0.0, 1.0)
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds, one run each.")


def with_negatives(config: ConfigDict, share: float) -> ConfigDict:
    """The config with that share of negatives, a third of each kind."""
    config = config.copy_and_resolve_references()
    for kind in ("silence", "noise", "foreign_sound"):
        config.data.augment[kind] = share / 3
    return config


def mean_results(results: list[dict]) -> dict:
    """Each number's mean over runs."""
    first = results[0]
    if not isinstance(first, dict):
        return float(np.mean(results))
    return {key: mean_results([result[key] for result in results]) for key in first}


def main(argv):
    """Prints a table per choice, as soon as it is done."""
    del argv
    show_own_log()
    config = demo.get_config()
    config.prepared_dir = _PREPARED.value
    seeds = [int(seed) for seed in _SEEDS.value]
    for share in (0.0, _SHARE.value):
        results = []
        for seed in seeds:
            config.seed = seed
            folder = Path(_RUNS.value) / f"negatives{share:g}-{seed}"
            results.append(run(with_negatives(config, share), folder))
        print(f"\n{100 * share:.0f} % negatives, seeds {seeds}")
        print(format_table(mean_results(results)), flush=True)


if __name__ == "__main__":
    app.run(main)
