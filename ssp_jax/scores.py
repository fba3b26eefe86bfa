"""Scores of a trained stage on its test sets, beside those of predictors that hear nothing, and
under sounds that nothing in the picture makes."""

import dataclasses
from collections.abc import Iterator

import numpy as np
from PIL import Image

from ssp_jax import preemption
from ssp_jax.batch import AVBatch
from ssp_jax.data.pipeline import eval_batches
from ssp_jax.data.reader import FrameReader
from ssp_jax.data.sounds import negative_sounds
from ssp_jax.evaluators.frame_facts import FrameFacts
from ssp_jax.evaluators.motion import MotionState, motion_state
from ssp_jax.evaluators.pictures import save_picture
from ssp_jax.evaluators.robustness import with_g_miou
from ssp_jax.evaluators.saved_masks import palette_picture, save_masks, soft_masks
from ssp_jax.evaluators.trivial import most_frequent_class, trivial_predictions
from ssp_jax.metrics_counts import FrameCounts
from ssp_jax.processes import is_first
from ssp_jax.report.clips import add_views
from ssp_jax.report.harmless import harmless
from ssp_jax.report.record import make_record, write_record
from ssp_jax.sharding import own_rows
from ssp_jax.stage import Stage


def evaluate(stage: Stage, params: dict, *, brief: bool = False) -> Iterator[tuple[str, dict]]:
    """Scores of every test set: (name, {"miou", "fscore", "foreign_sounds": {...}, ...}).

    `brief` leaves out negative sounds, the picture, the masks and the report's record; that is
    made once the consumer has what is yielded.
    """
    for name, words in stage.words["test"].items():
        result, state, facts = _scored(stage, params, words)
        if not brief:
            result |= with_g_miou(result, _under_negative_sounds(stage, params, words))
            _save_picture(stage, params, name, words)
            if stage.config.save_masks:
                _save_masks(stage, params, name, words)
        yield name, result
        if stage.config.report and not brief:
            with harmless(f"{stage.name} {name}"):
                _keep_record(stage, params, make_record(stage, name, words, result, state, facts))


def _keep_record(stage: Stage, params: dict, record: dict) -> None:
    add_views(record, stage, params)
    if is_first():
        write_record(stage.folder, record)


def _under_negative_sounds(stage: Stage, params: dict, words: str) -> dict[str, dict]:
    sounds = negative_sounds(stage.config.negative_sounds)
    if len(stage.data.source(words)) < 2:  # there is no other sound
        sounds = [sound for sound in sounds if sound != "foreign"]
    return {sound: stage.score(params, words, sound) for sound in sounds}


def _save_picture(stage: Stage, params: dict, name: str, words: str) -> None:
    with stage.batches(words) as batches:
        batch = next(batches)
    placed = stage.put(batch)
    predicted = own_rows(placed, stage.predict(params, placed).argmax(1))
    if is_first():
        save_picture(stage.folder / f"{name}.png", batch, predicted, stage.class_names)


def _save_masks(stage: Stage, params: dict, name: str, words: str) -> None:
    def pictures(batch: AVBatch) -> Iterator[Image.Image]:
        placed = stage.put(batch)
        scores = own_rows(placed, stage.predict(params, placed))
        if stage.binary:
            yield from map(Image.fromarray, soft_masks(scores, stage.protocol.score_rule))
        else:
            yield from map(palette_picture, scores.argmax(1))

    uids = stage.data.source(words).table.uid
    first = int(not words.startswith("avss:") and stage.binary)  # as the benchmarks' files count
    with stage.batches(words) as batches:
        save_masks(stage.folder / "masks" / name, batches, pictures, uids, first)


def _scored(stage: Stage, params: dict, words: str) -> tuple[dict, FrameCounts, FrameFacts]:
    """Scores, and what they are made of; where the data set knows all visible objects and what
    moves, also those by motion and of predictors that hear nothing."""
    source = stage.data.source(words)
    all_known = "objects" in source[0].maps
    frequent = 1 if stage.binary or not all_known else _frequent_class(stage)
    reader, motion = FrameReader(source, stage.spec, stage.cache), MotionState()
    states, facts = {"": stage.evaluator.empty()}, FrameFacts.empty(stage.num_classes)
    with stage.batches(words) as batches:
        for batch in preemption.until_asked(batches):
            placed = stage.put(batch)
            scores = stage.predict(params, placed)
            states[""] = states[""].merge(stage.evaluator.score(scores, placed, batch))
            predicted = own_rows(placed, scores.argmax(1))
            if not all_known:
                facts = facts.add(predicted, batch, batch.flow_mask)
                continue
            maps = {name: _maps(reader, batch, name) for name in ("objects", "moving")}
            facts = facts.add(predicted, batch, maps["moving"])
            if stage.binary:
                maps["objects"] = (maps["objects"] > 0).astype(np.uint8)
            motion = motion.merge(motion_state(predicted, batch.labels, **maps))
            predictions = trivial_predictions(
                **maps, num_classes=stage.num_classes, frequent_class=frequent
            )
            for name, prediction in predictions.items():
                state = stage.evaluator.score_labels(prediction, batch)
                states[name] = states[name].merge(state) if name in states else state
    results = {name: dict(stage.evaluator.results(state)) for name, state in states.items()}
    by_motion = dict(motion.over_processes().compute()) if all_known else {}
    return results.pop("") | by_motion | results, states[""], facts


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
