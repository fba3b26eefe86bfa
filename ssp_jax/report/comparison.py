"""The page of two runs side by side, with the clips on which they differ."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssp_jax.errors import UserError
from ssp_jax.files import absolute
from ssp_jax.report import cards, plots, progress
from ssp_jax.report.clips import View
from ssp_jax.report.markup import Markup, document, percent, table, tag
from ssp_jax.report.page import comparability
from ssp_jax.report.record import Record, clip_iou, read_records
from ssp_jax.report.reopening import reopened_views
from ssp_jax.run_facts import run_config
from ssp_jax.run_folder import differing_keys

_LOG = logging.getLogger(__name__)
_SCORES = {
    "mIoU": ("miou",),
    "F": ("fscore",),
    "G-mIoU": ("g_miou",),
    "mIoU in silence (low is right)": ("silence", "miou"),
    "mIoU with noise (low is right)": ("noise", "miou"),
    "mIoU with foreign sounds (low is right)": ("foreign_sounds", "miou"),
}
# Rows of pictures that depend on the run, and are shown of both.
_OF_RUN = ("flow mask", "pre-mask", "mask prompt", "prediction")

Pair = tuple[Any, Any]


def comparison_page(runs: tuple[Path, Path], clips: int) -> str:
    """The page of two runs' folders as HTML.

    Args:
      clips: so many clips of every test set on which either run is ahead are predicted again and
        shown; 0 needs neither data nor checkpoints.

    Raises:
      UserError: see `read_records`; or they have no test set in common.
    """
    records = tuple(read_records(run) for run in runs)
    common = [name for name in records[0] if _same_clips(*(r.get(name) for r in records))]
    if not common:
        raise UserError(
            f"{runs[0]} and {runs[1]} have no test set with the same clips: "
            f"{', '.join(records[0])} there, {', '.join(records[1])} here"
        )
    pairs = {name: (records[0][name], records[1][name]) for name in common}
    chosen = {name: _most_different(pair, clips) for name, pair in pairs.items()}
    views, missing = _views(runs, records, chosen) if clips else ({}, None)
    names = _names(runs)
    sections = []
    for name in common:
        sections.append((name, _test_set(names, pairs[name])))
        for winner, uids in zip(reversed(names), chosen[name], strict=True):
            if uids and name in views:
                title = f"{name}: clips where {winner} is ahead"
                sections.append((title, _clips(names, pairs[name], views[name], uids)))
    sections.append(("Training", _training(names, runs)))
    sections.append(("Keys of the configs that differ", _config(names, runs)))
    return document(
        f"{names[0]} and {names[1]}",
        tag("header", tag("h1", f"{names[0]} and {names[1]}")),
        tag(
            "main",
            *comparability({name: records[0][name] for name in common}),
            *_warnings(records, pairs),
            tag("p", missing, class_="warning") if missing else None,
            _headline(names, pairs),
        ),
        *(tag("main", tag("h2", title), body) for title, body in sections),
        tag("footer", tag("p", "Written by ssp_jax.", class_="faint")),
    )


def _names(runs: tuple[Path, Path]) -> tuple[str, str]:
    short = tuple(absolute(run).name for run in runs)
    return short if short[0] != short[1] else tuple(map(str, runs))


def _same_clips(one: Record | None, two: Record | None) -> bool:
    return one is not None and two is not None and clip_iou(one)[0] == clip_iou(two)[0]


def _most_different(pair: tuple[Record, Record], count: int) -> tuple[list[str], list[str]]:
    """uids of the clips where the second run is most ahead, and where the first is."""
    uids, one = clip_iou(pair[0])
    gain = clip_iou(pair[1])[1] - one
    order = np.argsort(-gain, kind="stable")
    ahead = [uids[i] for i in order[:count] if gain[i] > 0]
    behind = [uids[i] for i in order[::-1][:count] if gain[i] < 0]
    return ahead, behind


def _views(
    runs: tuple[Path, Path], records: tuple[dict, dict], chosen: Mapping[str, Sequence[list[str]]]
) -> tuple[dict[str, dict[str, tuple[View, View]]], str | None]:
    """(test set -> uid -> views of both runs, why there are none)."""
    wanted = {name: [*ahead, *behind] for name, (ahead, behind) in chosen.items()}
    wanted = {name: uids for name, uids in wanted.items() if uids}
    try:
        one, two = (reopened_views(*given, wanted) for given in zip(runs, records, strict=True))
    except UserError as error:
        _LOG.warning("clips are not shown: %s", error)
        return {}, f"Clips are not shown: {error}"
    return {
        name: {u: (one[name][u], two[name][u]) for u in uids if u in one[name] and u in two[name]}
        for name, uids in wanted.items()
    }, None


def _warnings(records: tuple[dict, dict], pairs: Mapping[str, tuple[Record, Record]]):
    """List what is not compared, or not alike."""
    apart = sorted((records[0].keys() | records[1].keys()) - pairs.keys())
    if apart:
        yield tag("p", f"{', '.join(apart)}: not in both runs, or of other clips.", class_="faint")
    for name, (one, two) in pairs.items():
        if one["protocol"] != two["protocol"]:
            text = f"{name}: scored as {one['protocol']} and as {two['protocol']} do, not alike."
            yield tag("p", text, class_="warning")


def _change(one: float | None, two: float | None, *, low: bool = False) -> Markup:
    if one is None or two is None:
        return tag("span", "–")
    better = two < one if low else two > one
    kind = None if abs(two - one) < 5e-4 else "up" if better else "down"
    return tag("span", percent(two - one, signed=True), class_=kind)


def _headline(names: tuple[str, str], pairs: Mapping[str, tuple[Record, Record]]) -> Markup:
    boxes = []
    for name, pair in pairs.items():
        rows = []
        for title, path in _SCORES.items():
            values = [_at(record["scores"], path) for record in pair]
            if None not in values:
                low = path[0] in ("silence", "noise", "foreign_sounds")
                rows.append([title, *map(percent, values), _change(*values, low=low)])
        boxes.append(cards.card(f"{name}, %", table(["", *names, "change"], rows)))
    return cards.cards(*boxes)


def _at(scores: Mapping, path: Sequence[str]) -> float | None:
    for key in path:
        scores = scores.get(key) if isinstance(scores, Mapping) else None
    return scores


def _test_set(names: tuple[str, str], pair: tuple[Record, Record]) -> Markup:
    iou = np.stack([clip_iou(record)[1] for record in pair], axis=1)
    boxes = [
        _paired(names, iou),
        cards.figure("Clip by clip", plots.against(names, iou)),
        cards.figure("All clips", plots.clip_curves(dict(zip(names, iou.T, strict=True)))),
    ]
    for one in pair[0]["groups"]:
        two = next((g for g in pair[1]["groups"] if g["title"] == one["title"]), None)
        if two is not None:
            boxes.append(_rows(names, one["title"], one["rows"], two["rows"], one["note"]))
    classes = [sorted(record["classes"], key=lambda row: -row["iou"]) for record in pair]
    if all(classes):
        boxes.append(_rows(names, "Classes", *classes, "In the order of the first run."))
    return cards.cards(*boxes)


def _paired(names: tuple[str, str], iou: np.ndarray) -> Markup:
    gain = iou[:, 1] - iou[:, 0]
    error = float(gain.std(ddof=1) / np.sqrt(len(gain))) if len(gain) > 1 else None
    rows = [
        [f"{names[1]} ahead", int((gain > 0).sum())],
        [f"{names[0]} ahead", int((gain < 0).sum())],
        ["equal", int((gain == 0).sum())],
        ["mean gain in IoU, %", _change(0.0, float(gain.mean()))],
        ["standard error over clips", percent(error)],
    ]
    return cards.card(
        f"{len(gain)} clips in both",
        table(["", ""], rows),
        note="Mean IoU of a clip's frames. The standard error is of these clips under these two "
        "trainings; it tells nothing of other seeds.",
    )


def _rows(names, title: str, one: Sequence[Mapping], two: Sequence[Mapping], note: str) -> Markup:
    others = {row["name"]: row for row in two}
    rows = [
        [
            row["name"],
            row["count"],
            percent(row["iou"]),
            percent(others[row["name"]]["iou"]),
            _change(row["iou"], others[row["name"]]["iou"]),
        ]
        for row in one
        if row["name"] in others
    ]
    return cards.card(f"{title}: IoU, %", table(["", "number", *names, "change"], rows), note=note)


def _clips(
    names: tuple[str, str],
    pair: tuple[Record, Record],
    views: Mapping[str, tuple[View, View]],
    uids: Sequence[str],
) -> Markup:
    scores = [dict(zip(*clip_iou(record), strict=True)) for record in pair]
    boxes = []
    for uid in uids:
        if uid not in views:
            continue
        one, two = views[uid]
        both = dict(one)
        both["strips"] = [s for s in one["strips"] if s["title"] not in (*_OF_RUN, "sound")]
        both["strips"] += [
            strip | {"title": f"{strip['title']}: {name}"}
            for title in _OF_RUN
            for name, view in zip(names, (one, two), strict=True)
            for strip in view["strips"]
            if strip["title"] == title
        ]
        both["strips"] += [s for s in one["strips"] if s["title"] == "sound"]
        legend = {entry["name"]: entry for view in (one, two) for entry in view["legend"]}
        both["legend"] = list(legend.values())
        gain = ", ".join(
            f"{name} {percent(float(of[uid]))}" for name, of in zip(names, scores, strict=True)
        )
        about = f"IoU: {gain}" + (f"; {one['category']}" if one["category"] else "")
        boxes.append(
            cards.card(
                uid,
                tag("p", about, class_="caption"),
                cards.legend(both),
                cards.strips(both),
                cards.sound(one),
                cards.texts(one, two),
            )
        )
    return cards.cards(*boxes, class_="clips")


def _training(names: tuple[str, str], runs: tuple[Path, Path]) -> Markup:
    metrics = [progress.read_metrics(run) for run in runs]
    boxes = []
    for stage in [stage for stage in metrics[0] if stage in metrics[1]]:
        curves = dict(zip(names, (found[stage] for found in metrics), strict=True))
        losses = {name: found["loss"] for name, found in curves.items() if "loss" in found}
        if losses:
            boxes.append(cards.figure(f"{stage}: loss", plots.curves(losses)))
        lines = {
            f"{name}: {key}": curve
            for name, found in curves.items()
            for key, curve in progress.validation(found, "miou").items()
        }
        if lines:
            svg = plots.curves(lines, markers=True)
            boxes.append(cards.figure(f"{stage}: validation mIoU, %", svg))
    return cards.cards(*boxes)


def _config(names: tuple[str, str], runs: tuple[Path, Path]) -> Markup:
    configs = [json.loads(run_config(run).to_json()) for run in runs]
    rows = [[key, *values] for key, values in differing_keys(*configs).items()]
    return cards.card("", table(["key", *names], rows)) if rows else tag("p", "none")
