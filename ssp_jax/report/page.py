"""The page of one run: report.html, self-contained."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ssp_jax.config import matmul_precision
from ssp_jax.evaluation_folder import read_evaluation
from ssp_jax.evaluators.report import PREDICTORS, SOUNDS, score_rows
from ssp_jax.files import absolute, write_whole
from ssp_jax.report import cards, plots, progress
from ssp_jax.report.markup import Markup, bar, document, joined, percent, table, tag
from ssp_jax.report.published import BENCHMARKS, METHODS, benchmark_of
from ssp_jax.report.record import Record, clip_iou, read_records
from ssp_jax.run_facts import run_config

PAGE = "report.html"
_CONFUSIONS = 12  # that are named
_KINDS = {  # `MotionState`
    "moves and sounds: found": "moving_sounding_found",
    "stands still and sounds: found": "still_sounding_found",
    "moves and is silent: taken for sounding": "moving_silent_taken",
    "stands still and is silent: taken for sounding": "still_silent_taken",
}


def write_page(workdir: Path) -> Path:
    """Write the report of a run's folder into it; its path.

    Raises:
      UserError: see `read_records`, `run_config`.
    """
    config = json.loads(run_config(workdir).to_json())
    write_whole(workdir / PAGE, run_page(workdir, read_records(workdir), config))
    return workdir / PAGE


def run_page(workdir: Path, records: Mapping[str, Record], config: Mapping) -> str:
    """The page as HTML."""
    name = absolute(workdir).name
    model, data = config["model"]["size"], config["data"]["frame_size"]
    about = f"size {model}, {data or 'the protocol’s'} px, seed {config['seed']}, {config['dtype']}"
    about += f" (matmul_precision {matmul_precision(config)})"
    sections = [("scores", "Scores", _headline(records))]
    sections += [
        (f"set-{key}", _title(record), _test_set(record)) for key, record in records.items()
    ]
    evaluation = read_evaluation(workdir)
    if evaluation is None:
        sections.append(("training", "Training", _training(workdir)))
    else:
        sections.append(("weights", "Weights", _weights(evaluation["weights"])))
    sections.append(("config", "Config", _config(config)))
    links = [tag("a", title, href=f"#{anchor}") for anchor, title, _ in sections]
    return document(
        f"{name}: report",
        tag("header", tag("h1", name), tag("p", about, class_="faint")),
        tag("nav", *links),
        *(tag("main", tag("h2", title, id=anchor), body) for anchor, title, body in sections),
        tag("footer", tag("p", "Written by ssp_jax.", class_="faint")),
    )


def _title(record: Record) -> str:
    return f"{record['name']}: {'where it sounds' if record['binary'] else 'what sounds where'}"


def comparability(records: Mapping[str, Record]) -> list[Markup]:
    """Warnings of what must not be compared with published figures."""
    says = []
    generated = [name for name, record in records.items() if record["generated"]]
    if generated:
        says.append(
            f"{', '.join(generated)}: the built-in benchmark, drawn by this project's generator. "
            "These numbers are not comparable with those of any paper; only runs on the same "
            "generated clips are comparable with each other."
        )
    for name, record in records.items():
        if left := {key: count for key, count in record["left_out"].items() if count}:
            parts = ", ".join(f"{key} lacks {count} clips or files" for key, count in left.items())
            says.append(f"{name}: of a partial copy ({parts}), so not comparable with papers.")
    return [tag("p", text, class_="warning") for text in says]


def _headline(records: Mapping[str, Record]) -> Markup:
    results = {name: record["scores"] for name, record in records.items()}
    header = ["mIoU / F, %", *(f"{name}" for name in records)]
    rows = list(score_rows(PREDICTORS, results, ("miou", "fscore")))
    columns = [_column(record) for record in records.values()]
    if any(columns):
        rows += [[_method(method), *(_published(method, c) for c in columns)] for method in METHODS]
    note = f"Protocol: {', '.join(sorted({record['protocol'] for record in records.values()}))}."
    if any(columns):
        note += " The papers' figures of AAVS and SSP are of stepping_stones."
    if any("visible" in result for result in results.values()):
        note += " The last four rows are no models: what can be had without listening."
    boxes = [cards.card("Test sets", table(header, rows), note=note)]
    robust = list(score_rows(SOUNDS, results, ("activated", "g_miou")))
    if len(robust) > 1:
        boxes.append(
            cards.card(
                "Sounds that nothing in the picture makes",
                table(["activated / G-mIoU, %", *records], robust),
                note="Share of the pixels predicted as sounding (low is right under such a sound), "
                "and the harmonic mean of mIoU and 1 - mIoU under it.",
            )
        )
    if not all(columns):
        boxes.append(
            cards.card(
                "Published figures" + ("" if any(columns) else ", not comparable with these"),
                table(
                    ["mIoU / F, %", *(name.upper() for name in BENCHMARKS)],
                    [[_method(m), *(_published(m, name) for name in BENCHMARKS)] for m in METHODS],
                ),
                note="Of AVSBench's test sets, as the papers report them.",
            )
        )
    return joined([*comparability(records), cards.cards(*boxes)])


def _column(record: Record) -> str | None:
    whole = not record["generated"] and not any(record["left_out"].values())
    return benchmark_of(record["words"]) if whole else None


def _method(method) -> Markup:
    return joined([method.name, tag("div", method.source, class_="caption")])


def _published(method, benchmark: str | None) -> str:
    if benchmark is None:
        return "–"
    fscore = method.fscore.get(benchmark)
    return f"{method.miou[benchmark]} / {'–' if fscore is None else fscore}"


def _test_set(record: Record) -> Markup:
    about = (
        f"{record['words']}, stage {record['stage']}: {record['num_clips']} clips, "
        f"{record['num_frames']} annotated frames, protocol {record['protocol']}."
    )
    _, iou = clip_iou(record)
    boxes = [cards.group_table(group) for group in record["groups"]]
    boxes.append(_motion(record["scores"]))
    boxes.append(
        cards.figure(
            "All clips",
            plots.clip_curves({"IoU": iou}),
            f"Mean IoU of a clip's frames; mean {percent(float(iou.mean()))}, "
            f"median {percent(float(np.median(iou)))}.",
        )
    )
    ranks = dict.fromkeys(view["rank"] for view in record["views"])
    return joined(
        [
            tag("p", about, class_="faint"),
            cards.cards(*boxes),
            cards.cards(*_classes(record), *_confusion(record), class_="broad"),
            *(
                joined([tag("h2", f"{record['name']}: {_RANKS[rank]}"), _views(record, rank)])
                for rank in ranks
            ),
        ]
    )


_RANKS = {"best": "the best clips", "median": "clips in the middle", "worst": "the worst clips"}


def _motion(scores: Mapping) -> Markup | None:
    if not all(key in scores for key in _KINDS.values()):
        return None
    return cards.card(
        "Objects by motion and sound",
        table(["", "share"], [[title, bar(scores[key])] for title, key in _KINDS.items()]),
        note="Share of the pixels of visible objects. Found, with the right class: high is right. "
        "Taken for sounding: low is right.",
    )


def _classes(record: Record) -> list[Markup]:
    rows = sorted(record["classes"], key=lambda row: -row["iou"])
    if not rows:
        return []
    if record["binary"]:
        note = "Frames of the clips whose category names the class, perhaps beside others."
    else:
        note, count = "The protocol's own means.", len(record["confusion"]["names"])
        if len(rows) < count:
            note += f" {len(rows)} of {count} classes occur; the others count as 0 in mIoU and F."
        if record["num_padded"]:
            note += f" Background also has {record['num_padded']} frames that fill up short clips."
    trained = [row for row in rows if row["trained"] is not None]
    listed = cards.card(
        "Classes, best first",
        table(
            ["", "IoU", "F", "frames", *(["training clips"] if trained else [])],
            [
                [
                    row["name"],
                    bar(row["iou"]),
                    percent(row["fscore"]),
                    row["count"],
                    *(["–" if row["trained"] is None else row["trained"]] if trained else []),
                ]
                for row in rows
            ],
            long=len(rows) > plots.FEW_CLASSES,
        ),
        note=note,
    )
    if len(trained) < 2:
        return [listed]
    title = "IoU of classes over their training clips"
    return [listed, cards.figure(title, plots.classes(trained))]


def _confusion(record: Record) -> list[Markup]:
    names = record["confusion"]["names"]
    pixels = np.array(record["confusion"]["pixels"], np.float64)
    share = pixels / np.maximum(pixels.sum(axis=1, keepdims=True), 1)
    if len(names) == 2:
        rows = [[name, *map(percent, row)] for name, row in zip(names, share, strict=True)]
        header = ["true \\ predicted, %", *names]
        return [cards.card("Confusion of pixels", table(header, rows))]
    pairs = [
        (share[a, b], a, b) for a in range(1, len(names)) for b in range(1, len(names)) if a != b
    ]
    rows = [
        [f"{names[a]} taken for {names[b]}", percent(value)]
        for value, a, b in sorted(pairs, reverse=True)[:_CONFUSIONS]
        if value > 0
    ]
    return [
        cards.card(
            "Most confused",
            table(["", "of the class's pixels, %"], rows),
            note="Among classes that sound; what goes to the background is missed, not confused.",
        ),
        cards.figure(
            "Confusion of pixels",
            plots.confusion(names, pixels),
            "Where the pixels of each true class went; shades are logarithmic.",
            whole=len(names) > plots.FEW_CLASSES,
        ),
    ]


def _views(record: Record, rank: str) -> Markup:
    scores = {clip["clip"]: clip for clip in record["clips"]}
    boxes = []
    for view in record["views"]:
        if view["rank"] != rank:
            continue
        score = scores[view["clip"]]
        about = f"IoU {percent(score['iou'])}, F {percent(score['fscore'])}"
        if view["category"]:
            about += f"; {view['category']}"
        boxes.append(
            cards.card(
                view["uid"],
                tag("p", about, class_="caption"),
                cards.legend(view),
                cards.strips(view),
                cards.sound(view),
                cards.texts(view),
            )
        )
    return cards.cards(*boxes, class_="clips")


def _weights(weights: Mapping[str, Mapping]) -> Markup:
    rows = [[stage, ", ".join(of["from"]), of["digest"]] for stage, of in weights.items()]
    return cards.card(
        "Scored, not trained here",
        table(["stage", "from", "digest"], rows),
        note="The digest changes with any bit of the weights.",
    )


def _training(workdir: Path) -> Markup:
    parts = []
    for stage, curves in progress.read_metrics(workdir).items():
        drawn = [cards.figure(title, svg) for title, svg in progress.figures(curves).items()]
        parts += [tag("h3", f"stage {stage}"), cards.cards(*drawn)]
    return joined(parts or [tag("p", "no metrics.jsonl", class_="faint")])


def _config(config: Mapping) -> Markup:
    text = json.dumps(config, indent=1, sort_keys=True)
    shown = tag("div", tag("pre", text), class_="wide")
    return tag("details", tag("summary", "all keys"), shown)
