"""The figures of a report, as SVG in base64; each small enough to be read on a phone."""

import base64
import io
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Curve = tuple[Sequence[float], Sequence[float]]  # steps, values

COLOURS = ("#2f6db5", "#d9742b", "#3a8f5c", "#a04a9e", "#8a6d3b", "#c23b4b", "#5b6573", "#1aa0a8")
FEW_CLASSES = 20  # a matrix of more needs a large figure
_LETTERS = 28  # of a name
_POINTS = 300  # of a curve that are drawn
_STYLE = {
    "axes.edgecolor": "#9aa3b2",
    "axes.grid": True,
    "axes.labelcolor": "#3a4150",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "grid.color": "#e6e9ef",
    "legend.fontsize": 8,
    "legend.frameon": False,
    "svg.hashsalt": "ssp_jax",
    "text.parse_math": False,  # names may hold any sign
    "xtick.color": "#5b6573",
    "ytick.color": "#5b6573",
}


def curves(lines: Mapping[str, Curve], *, logarithmic: bool = False, markers: bool = False) -> str:
    """Lines over training steps, by name; long ones as means of equally many neighbours."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for (name, (steps, values)), colour in zip(
            lines.items(), _colours(len(lines)), strict=True
        ):
            steps, values = _thinned(np.array(steps, float), np.array(values, float))
            axes.plot(
                steps,
                values,
                color=colour,
                label=_short(name),
                lw=1.4,
                marker="o" if markers else None,
                ms=3,
            )
        if logarithmic:
            axes.set_yscale("log")
            _plain_ticks(axes.yaxis)
        axes.set_xlabel("step")
        if len(lines) > 1:
            columns = 1 + (len(lines) > 4)
            axes.legend(loc="upper left", bbox_to_anchor=(0, -0.2), ncols=columns)

    return _svg(draw, (4.4, 3.0 + 0.2 * (len(lines) if len(lines) > 1 else 0)))


def classes(rows: Sequence[Mapping]) -> str:
    """IoU of classes over the number of training clips that have them."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        trained = np.array([row["trained"] for row in rows], float)
        iou = 100 * np.array([row["iou"] for row in rows], float)
        axes.scatter(trained, iou, s=16, color=COLOURS[0])
        order = np.argsort(iou)
        named = order if len(rows) <= 16 else [*order[:5], *order[-5:]]
        for index in named:
            axes.annotate(
                _short(rows[index]["name"]),
                (trained[index], iou[index]),
                xytext=(3, 3),
                textcoords="offset points",
                fontsize=7,
            )
        if trained.min() > 0 and trained.max() > 10 * trained.min():
            axes.set_xscale("log")
            _plain_ticks(axes.xaxis)
        axes.margins(x=0.12, y=0.1)
        axes.set_xlabel("training clips")
        axes.set_ylabel("IoU, %")

    return _svg(draw, (4.4, 3.6))


def confusion(names: Sequence[str], pixels: Float[np.ndarray, "K K"]) -> str:
    """Draw where the pixels of each true class (row) went; in logarithmic shades."""
    share = pixels / np.maximum(pixels.sum(axis=1, keepdims=True), 1)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.grid(False)
        norm = matplotlib.colors.LogNorm(0.001, 1, clip=True)
        image = axes.imshow(np.maximum(share, 1e-6), cmap="Blues", norm=norm)
        shown = [_short(name) for name in names]
        small = {"fontsize": 8 if len(names) <= FEW_CLASSES else 6}
        axes.set_xticks(range(len(names)), shown, rotation=90, **small)
        axes.set_yticks(range(len(names)), shown, **small)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        bar = figure.colorbar(image, shrink=0.6, ticks=[0.001, 0.01, 0.1, 1])
        bar.ax.set_yticklabels(["0.1 %", "1 %", "10 %", "100 %"], fontsize=8)

    side = 4.8 if len(names) <= FEW_CLASSES else 11.0
    return _svg(draw, (side, 0.9 * side))


def clip_curves(lines: Mapping[str, Float[np.ndarray, " clips"]]) -> str:
    """IoU of all clips, from the best to the worst."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for (name, iou), colour in zip(lines.items(), _colours(len(lines)), strict=True):
            place = 100 * (np.arange(len(iou)) + 0.5) / len(iou)
            axes.plot(
                *_thinned(place, 100 * np.sort(iou)[::-1]), color=colour, label=_short(name), lw=1.6
            )
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
        axes.set_xlabel("clips, from the best on, %")
        axes.set_ylabel("IoU, %")
        if len(lines) > 1:
            axes.legend()

    return _svg(draw, (4.4, 3.2))


def against(names: tuple[str, str], pairs: Float[np.ndarray, "clips 2"]) -> str:
    """IoU of each clip in one run (to the right) and in the other (upwards)."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot([0, 100], [0, 100], color="#9aa3b2", lw=0.8)
        axes.scatter(*(100 * pairs.T), s=9, alpha=0.5, color=COLOURS[0], rasterized=True)
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
        axes.set_aspect("equal")
        axes.set_xlabel(f"IoU, %: {_short(names[0])}")
        axes.set_ylabel(f"IoU, %: {_short(names[1])}")

    return _svg(draw, (4.4, 4.2))


def _plain_ticks(axis) -> None:
    """Those of a logarithmic axis are formulas else, which `_STYLE` does not read."""
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


def _short(name: str) -> str:
    return name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"


def _colours(count: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    width = -(-len(x) // _POINTS)
    if width <= 1:
        return x, y
    starts = np.arange(0, len(x), width)
    counts = np.diff(starts, append=len(x))
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts


def _svg(draw, size: tuple[float, float]) -> str:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", dpi=150, metadata={"Date": None})
    return base64.b64encode(buffer.getvalue()).decode()
