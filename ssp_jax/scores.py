"""Scores of a trained stage on its test sets, beside those of predictors that hear nothing."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from ssp_jax.batch import AVBatch
from ssp_jax.data.pipeline import eval_batches
from ssp_jax.data.reader import FrameReader
from ssp_jax.evaluators.motion import MotionState, motion_state
from ssp_jax.evaluators.pictures import save_picture
from ssp_jax.evaluators.trivial import most_frequent_class, trivial_predictions
from ssp_jax.processes import is_first
from ssp_jax.sharding import own_rows
from ssp_jax.stage import Stage


def evaluate(stage: Stage, params: dict, *, brief: bool = False) -> Iterator[tuple[str, dict]]:
    """Scores of every test set: (name, {"miou", "fscore", "foreign_sounds": {...}, ...}).

    `brief` leaves out foreign sounds and the picture.
    """
    for name, words in stage.words["test"].items():
        result = _with_trivial(stage, params, words)
        if not brief:
            if len(stage.data.source(words)) > 1:  # else there is no other sound
                result["foreign_sounds"] = stage.score(params, words, "foreign")
            _save_picture(stage, params, name, words)
        yield name, result


def _save_picture(stage: Stage, params: dict, name: str, words: str) -> None:
    with stage.batches(words) as batches:
        batch = next(batches)
    placed = stage.put(batch)
    predicted = own_rows(placed, stage.predict(params, placed).argmax(1))
    if is_first():
        save_picture(stage.folder / f"{name}.png", batch, predicted, stage.class_names)


def _with_trivial(stage: Stage, params: dict, words: str) -> dict:
    """Scores; where the data set knows all visible objects and what moves, also those by motion
    and of predictors that hear nothing."""
    source = stage.data.source(words)
    if "objects" not in source[0].maps:
        return stage.score(params, words)
    frequent = 1 if stage.binary else _frequent_class(stage)
    reader, motion = FrameReader(source, stage.spec, stage.cache), MotionState()
    states = {"": stage.evaluator.empty()}
    with stage.batches(words) as batches:
        for batch in batches:
            placed = stage.put(batch)
            scores = stage.predict(params, placed)
            states[""] = states[""].merge(stage.evaluator.score(scores, placed, batch))
            maps = {name: _maps(reader, batch, name) for name in ("objects", "moving")}
            if stage.binary:
                maps["objects"] = (maps["objects"] > 0).astype(np.uint8)
            predicted = own_rows(placed, scores.argmax(1))
            motion = motion.merge(motion_state(predicted, batch.labels, **maps))
            predictions = trivial_predictions(
                **maps, num_classes=stage.num_classes, frequent_class=frequent
            )
            for name, prediction in predictions.items():
                state = stage.evaluator.score_labels(prediction, batch)
                states[name] = states[name].merge(state) if name in states else state
    results = {name: dict(stage.evaluator.results(state)) for name, state in states.items()}
    return results.pop("") | dict(motion.over_processes().compute()) | results


def _frequent_class(stage: Stage) -> int:
    train = stage.data.source(stage.words["train"]["train"])
    spec = dataclasses.replace(
        stage.spec, reference=False, flow_mask=False, text_length=0, visual_tokens=False
    )
    with eval_batches(train, spec, batch_size=stage.stage.batch_size) as batches:
        maps = (next(batches).labels for _ in range(min(20, len(batches))))
        return most_frequent_class(maps, num_classes=stage.num_classes)


def _maps(reader: FrameReader, batch: AVBatch, name: str) -> np.ndarray:
    """A further map of every slot, zeros in empty ones; each clip is read once."""
    maps = np.zeros_like(batch.labels)
    for clip in np.unique(batch.clip[batch.valid]):
        slots = np.flatnonzero(batch.clip == clip)
        maps[slots] = reader.maps(int(clip), name, batch.second[slots].tolist())
    return maps
