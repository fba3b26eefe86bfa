"""What makes the small model listen: one choice at a time, own against foreign sounds.

    python -m benchmarks.listening [--runs=runs/listening] [--steps=800] [--seeds=0,1]

Trains the binary stage of configs/demo.py once per choice and seed, and prints mIoU with the clips'
own sounds and with those of other clips. A model that does not listen has both alike. Every run
has a folder of its own below --runs: the same command again goes on where it stopped.
"""

import logging
from pathlib import Path

import numpy as np
from absl import app, flags
from absl import logging as absl_logging

from configs import demo
from ssp_jax.places import define_path
from ssp_jax.run import run

_RUNS = define_path("runs", "runs/listening", "Folder of the runs.")
_STEPS = flags.DEFINE_integer("steps", 800, "Training steps of each run.", 1)
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds, one run each.")
_SPLIT = flags.DEFINE_enum("split", "val", ["val", "test"], "Choose on val; report on test.")

_AAVS = {
    "model.audio_visual_map": False,
    "model.decoder_trains_features": True,
    "avs.prompt.source": "none",
}
# Row of the table -> changed keys.
CHOICES = {
    "as it is": {},
    "the decoder trains the features too": {"model.decoder_trains_features": True},
    "no prompt by ear": _AAVS,
    "no listening losses": _AAVS
    | {"avs.listen.sounds": 0.0, "avs.listen.map": 0.0, "avs.listen.contrast": 0.0},
    "no contrast": {"avs.listen.contrast": 0.0},
    "AdamW alone": {"avs.optim.muon_lr": 0.0},
    "a fifth of the clips with foreign sounds": {"data.augment.foreign_sound": 0.2},
    "all frames of a clip a visit": {"data.frames_per_clip": 0},
}
_CHOSEN = flags.DEFINE_multi_enum("choice", list(CHOICES), list(CHOICES), "Which to run.")


def results_of(name: str, seed: int) -> dict[str, dict]:
    """{"s4": {"miou", "foreign_sounds": {...}}, "ms3": ...} of one run."""
    config = demo.get_config()
    config.stages, config.seed = "avs", seed
    config.avs.steps, config.avs.eval_every = _STEPS.value, _STEPS.value
    config.update_from_flattened_dict(CHOICES[name])
    for key, word in config.avs.test.items():
        config.avs.test[key] = word.replace("test", _SPLIT.value)
    folder = f"{name.replace(' ', '_')}-{_STEPS.value}-{_SPLIT.value}-{seed}"
    return run(config, Path(_RUNS.value) / folder)


def main(argv):
    """Prints the table, a row per choice as soon as it is done."""
    del argv
    absl_logging.set_verbosity(absl_logging.ERROR)
    logging.getLogger("ssp_jax").setLevel(logging.WARNING)
    seeds = [int(seed) for seed in _SEEDS.value]
    print(f"{_STEPS.value} steps, {_SPLIT.value}, seeds {seeds}; mIoU in per cent, own / foreign")
    print("| choice | S4-like | MS3-like |\n|---|---|---|")
    for name in _CHOSEN.value:
        runs = [results_of(name, seed) for seed in seeds]
        cells = []
        for test in ("s4", "ms3"):
            own = 100 * np.mean([result[test]["miou"] for result in runs])
            foreign = 100 * np.mean([r[test]["foreign_sounds"]["miou"] for r in runs])
            cells.append(f"{own:.1f} / {foreign:.1f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    app.run(main)
