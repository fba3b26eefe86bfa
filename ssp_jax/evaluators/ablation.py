"""Scores of several rows and seeds as a table in Markdown and as a plot."""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ssp_jax.files import write_whole

# {test set: {score: [a value a seed]}} of one row.
RowScores = Mapping[str, Mapping[str, Sequence[float]]]
_MOTION = {
    "still_sounding_found": "still and sounding: found",
    "moving_silent_taken": "moving and silent: taken for sounding",
}


def summarise(results: Sequence[Mapping[str, Mapping]]) -> dict[str, dict[str, list[float]]]:
    """The numbers of one row's runs, `RowScores`; those of trivial predictors are left out."""
    return {
        name: {
            score: [result[name][score] for result in results]
            for score, value in results[0][name].items()
            if isinstance(value, int | float)
        }
        for name in results[0]
    }


def ablation_markdown(
    tables: Mapping[str, Mapping[str, RowScores]], paper: Mapping[str, Mapping[str, float]]
) -> str:
    """Mean mIoU / F-score in per cent and the spread of mIoU between seeds (standard deviation).

    Args:
      tables: table -> row -> its scores. paper: row -> test set -> the paper's mIoU in per cent.
    """
    lines = []
    for name, rows in tables.items():
        if not rows:
            continue
        first = next(iter(rows.values()))
        sets = list(first)
        lines += [f"## {name} ({_seeds(rows.values())})", ""]
        lines += _table(
            ["", *(f"{s} mIoU ± / F" for s in sets), *(f"paper {s}" for s in sets)],
            [
                [
                    title,
                    *(_cell(scores.get(s, {})) for s in sets),
                    *(f"{paper.get(title, {}).get(s, '')}" for s in sets),
                ]
                for title, scores in rows.items()
            ],
        )
        if all(score in first[s] for s in sets for score in _MOTION):
            lines += _table(
                ["", *(f"{s}, {shown}" for shown in _MOTION.values() for s in sets)],
                [
                    [
                        title,
                        *(
                            f"{100 * np.mean(scores[s][key]):.1f}" if s in scores else ""
                            for key in _MOTION
                            for s in sets
                        ),
                    ]
                    for title, scores in rows.items()
                ],
            )
    return "\n".join(lines)


def _seeds(rows: Iterable[RowScores]) -> str:
    """Count how many seeds the rows have: until all are trained, some have fewer."""
    counts = {len(values) for row in rows for scores in row.values() for values in scores.values()}
    least, most = min(counts), max(counts)
    return f"{least if least == most else f'{least} to {most}'} seed{'' if most == 1 else 's'}"


def _cell(scores: Mapping[str, Sequence[float]]) -> str:
    if not scores:
        return ""
    miou, fscore = (100 * np.asarray(scores[key]) for key in ("miou", "fscore"))
    spread = f" ± {miou.std(ddof=1):.1f}" if len(miou) > 1 else ""
    return f"{miou.mean():.1f}{spread} / {fscore.mean():.1f}"


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    rule = "|" + " --- |" * len(header)
    first, *rest = ("| " + " | ".join(row) + " |" for row in (header, *rows))
    return [first, rule, *rest, ""]


def ablation_plot(path: Path, rows: Mapping[str, RowScores]) -> None:
    """PNG: mIoU of every row and seed, a panel a test set."""
    if not rows:
        return
    sets = list(next(iter(rows.values())))
    figure = Figure(figsize=(3.6 * len(sets) + 2.4, 0.4 * len(rows) + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(sets), squeeze=False, sharey=True)[0]
    for axis, name in zip(axes, sets, strict=True):
        for place, scores in enumerate(rows.values()):
            if name not in scores:
                continue
            values = 100 * np.asarray(scores[name]["miou"])
            axis.plot(values, np.full(len(values), place), "o", color="0.6", markersize=4)
            axis.plot(values.mean(), place, "|", color="C0", markersize=16, markeredgewidth=3)
        axis.set_title(name)
        axis.set_xlabel("mIoU, per cent")
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(rows)), list(rows))
    axes[0].invert_yaxis()
    picture = io.BytesIO()
    figure.savefig(picture, dpi=110)
    write_whole(path, picture.getvalue())
