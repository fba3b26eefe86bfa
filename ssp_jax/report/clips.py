"""The clips that a report shows: which, what the network saw, and what it made of them.

A second, small reading: of the clips that the scores have chosen, and of these alone.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped

from ssp_jax.data.log_mel import SAMPLE_RATE
from ssp_jax.predict.overlay import colour
from ssp_jax.processes import gather_rows, is_first
from ssp_jax.report import pictures
from ssp_jax.report.record import Record
from ssp_jax.sharding import own_rows
from ssp_jax.stage import Stage

EACH = 3  # clips of a rank
SECONDS = 10  # of a clip are shown, at most

View = dict  # of one clip, see `clip_views`
Rows = dict[str, Shaped[np.ndarray, "M ..."]]


def choose(record: Record) -> dict[str, list[int]]:
    """'best', 'median', 'worst' -> clips by IoU, of those in which something sounds; each once."""
    clips = [clip for clip in record["clips"] if clip["sounding"]]
    order = [clip["clip"] for clip in sorted(clips, key=lambda c: (-c["iou"], c["clip"]))]
    best, rest = order[:EACH], order[EACH:]
    middle, worst = rest[:-EACH], rest[-EACH:]
    start = max(0, (len(middle) - EACH) // 2)
    return {"best": best, "median": middle[start : start + EACH], "worst": worst[::-1]}


def add_views(record: Record, stage: Stage, params: dict) -> None:
    """Put the chosen clips into a record as `views`; all processes have to ask."""
    chosen = choose(record)
    views = clip_views(stage, params, record["words"], [*itertools.chain(*chosen.values())])
    record["views"] = [
        {"rank": rank, **views[clip]}
        for rank, clips in chosen.items()
        for clip in clips
        if clip in views
    ]


def clip_views(stage: Stage, params: dict, words: str, clips: Sequence[int]) -> dict[int, View]:
    """Show what is seen and heard of some clips of 'benchmark:split' words; empty but in process 0.

    Returns:
      clip -> {"clip", "uid", "category", "seconds", "strips": [{"title", "picture": JPEG}],
      "legend": [{"name", "colour"}], "texts": [A1, A2], "texts_read", "sound": [type, file]};
      files in base64.
    """
    if not clips:
        return {}
    rows = _predicted(stage, params, words, clips)
    if not is_first():
        return {}
    return {
        clip: _view(stage, words, clip, {k: v[rows["clip"] == clip] for k, v in rows.items()})
        for clip in clips
    }


def _predicted(stage: Stage, params: dict, words: str, clips: Sequence[int]) -> Rows:
    """The annotated frames of the clips, with what the network makes of them, in order."""
    parts: list[Rows] = []
    with stage.batches(words, clips=clips) as batches:
        for batch in batches:
            placed = stage.put(batch)
            scores = stage.predict(params, placed)
            rows = {
                "frame": batch.frames,
                "log_mel": batch.log_mel,
                "truth": batch.labels,
                "prediction": own_rows(placed, scores.argmax(1)).astype(np.uint8),
                "clip": batch.clip,
                "second": batch.second,
            }
            if batch.flow_mask is not None:
                rows["flow_mask"] = batch.flow_mask
            if stage.prompted:
                rows["prompt"] = own_rows(placed, stage.mask_prompt(params, placed))
            parts.append({name: value[batch.annotated] for name, value in rows.items()})
    rows = gather_rows({name: np.concatenate([p[name] for p in parts]) for name in parts[0]})
    order = np.lexsort((rows["second"], rows["clip"]))
    return {name: value[order] for name, value in rows.items()}


def _view(stage: Stage, words: str, index: int, rows: Rows) -> View:
    rows = {name: value[:SECONDS] for name, value in rows.items()}
    clip = stage.data.source(words)[index]
    texts = clip.texts
    if stage.reads_texts:
        (texts,) = stage.companions.plain_texts(words, [index])
    waveform = clip.waveform[: len(clip.frames) * SAMPLE_RATE]
    present = np.unique(np.concatenate([rows["truth"].ravel(), rows["prediction"].ravel()]))
    return {
        "clip": index,
        "uid": clip.uid,
        "category": clip.category,
        "seconds": rows["second"].tolist(),
        "strips": [
            {"title": title, "picture": pictures.strip(cells)}
            for title, cells in _strips(stage, words, index, rows)
        ],
        "legend": [
            {"name": stage.class_names[c], "colour": "#{:02x}{:02x}{:02x}".format(*colour(c))}
            for c in present.tolist()
            if c > 0
        ],
        "texts": list(texts),
        "texts_read": stage.reads_texts,
        "sound": list(pictures.sound_file(waveform)) if len(waveform) else None,
    }


def _strips(stage: Stage, words: str, index: int, rows: Rows):
    """(title, cells) of each row of pictures; only what the stage has."""
    yield "frame", rows["frame"]
    if "flow_mask" in rows:
        yield "flow to the next frame", _flows(stage, words, index, rows["second"])
        yield "flow mask", (pictures.grey(mask, 255) for mask in rows["flow_mask"])
    if "prompt" in rows:
        one_map = stage.stage.prompt.premask and stage.config.model.premask_form == "paper"
        title = "pre-mask" if one_map else "mask prompt"
        yield title, (pictures.grey(mask, 1) for mask in rows["prompt"])
    for name in ("truth", "prediction"):
        yield name, map(pictures.marked, rows["frame"], rows[name])
    yield "sound", map(pictures.spectrogram, rows["log_mel"])


def _flows(stage: Stage, words: str, index: int, seconds) -> list[pictures.Picture]:
    flows = stage.companions.flow_masks(words).store.read(index)
    if not len(flows):
        return [np.full((pictures.CELL, pictures.CELL, 3), 255, np.uint8) for _ in seconds]
    longest = float(np.quantile(np.linalg.norm(flows, axis=-1), 0.99))
    empty = np.zeros_like(flows[0])
    return [
        pictures.flow_colours(flows[second] if second < len(flows) else empty, longest)
        for second in seconds
    ]
