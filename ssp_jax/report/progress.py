"""The curves of a training, from its metrics.jsonl."""

import json
from collections.abc import Mapping
from pathlib import Path

from ssp_jax.report import plots
from ssp_jax.run_folder import STAGES

# Counts among the parts of the loss, and the last layer's share of others.
_NO_LOSS = ("loss/targets", "loss/dropped_targets")
_LAST_LAYER = "_final"


def read_metrics(workdir: Path) -> dict[str, dict[str, plots.Curve]]:
    """Stage -> name -> curve, of the stages that have some; lines cut off by a crash are left
    out."""
    stages = {}
    for stage in STAGES:
        path, curves = workdir / stage / "metrics.jsonl", {}
        for line in path.read_text().splitlines() if path.is_file() else ():
            try:
                numbers = json.loads(line)
                step = int(numbers.pop("step"))
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
            for name, value in numbers.items():
                if isinstance(value, int | float):
                    steps, values = curves.setdefault(name, ([], []))
                    steps.append(step)
                    values.append(value)
        if curves:
            stages[stage] = curves
    return stages


def validation(curves: Mapping[str, plots.Curve], score: str) -> dict[str, plots.Curve]:
    """Validation set -> curve of a score, in per cent."""
    return {
        name.removeprefix("val/").removesuffix(f"/{score}"): (steps, [100 * v for v in values])
        for name, (steps, values) in curves.items()
        if name.startswith("val/") and name.endswith(f"/{score}")
    }


def figures(curves: Mapping[str, plots.Curve]) -> dict[str, str]:
    """Title -> SVG, of one stage."""
    parts = {
        name.removeprefix("loss/"): curve
        for name, curve in curves.items()
        if name.startswith("loss/") and name not in _NO_LOSS and not name.endswith(_LAST_LAYER)
    }
    # A logarithm has none of 0.
    parts = {name: curve for name, curve in parts.items() if min(curve[1]) > 0}
    drawn = {}
    if "loss" in curves:
        drawn["Loss"] = plots.curves({"loss": curves["loss"]})
    if parts:
        drawn["Parts of the loss, before their weights"] = plots.curves(parts, logarithmic=True)
    for title, score in (("Validation mIoU, %", "miou"), ("Validation F-score, %", "fscore")):
        if lines := validation(curves, score):
            drawn[title] = plots.curves(lines, markers=True)
    for title, name in (("Learning rate", "lr"), ("Norm of the gradient", "grad_norm")):
        if name in curves:
            drawn[title] = plots.curves({name: curves[name]})
    return drawn
