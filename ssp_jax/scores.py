"""Scores of a trained stage on its test sets, beside those of predictors that hear nothing, and
under sounds that nothing in the picture makes."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ssp_jax.batch import AVBatch
from ssp_jax.data.pipeline import eval_batches
from ssp_jax.data.reader import FrameReader
from ssp_jax.data.sounds import negative_sounds
from ssp_jax.evaluators.frame_facts import FrameFacts
from ssp_jax.evaluators.motion import motion_state
from ssp_jax.evaluators.pictures import save_picture
from ssp_jax.evaluators.robustness import with_g_miou
from ssp_jax.evaluators.saved_masks import (
    finish_masks,
    palette_picture,
    partial_folder,
    soft_masks,
    start_masks,
    write_masks,
)
from ssp_jax.evaluators.trivial import most_frequent_class, trivial_predictions
from ssp_jax.kept_scores import Counts, Keeper, KeptCounts, count
from ssp_jax.metrics_counts import FrameCounts
from ssp_jax.processes import in_turn, is_first
from ssp_jax.report.clips import add_views
from ssp_jax.report.harmless import harmless
from ssp_jax.report.record import make_record, write_record
from ssp_jax.sharding import own_rows
from ssp_jax.stage import Stage


def evaluate(
    stage: Stage,
    params: dict,
    *,
    brief: bool = False,
    sets: Mapping[str, str] | None = None,
    keeper: Keeper | None = None,
) -> Iterator[tuple[str, dict]]:
    """Scores of every test set: (name, {"miou", "fscore", "foreign_sounds": {...}, ...}).

    Args:
      brief: leaves out negative sounds, the picture, the masks and the report's record; that is
        made once the consumer has what is yielded.
      sets: name -> 'benchmark:split' words, in place of the stage's test sets.
      keeper: what is counted is kept there, and goes on where it was interrupted.
    """
    for name, words in (stage.words["test"] if sets is None else sets).items():
        scoring = _Scoring(stage, params, name, words, keeper)
        result, state, facts = scoring.scored()
        if not brief:
            result |= with_g_miou(result, scoring.under_negative_sounds())
            _save_picture(stage, params, name, words)
            if stage.config.save_masks:
                scoring.save_masks()
        yield name, result
        if stage.config.report and not brief:
            with harmless(f"{stage.name} {name}"):
                _keep_record(stage, params, make_record(stage, name, words, result, state, facts))


def _keep_record(stage: Stage, params: dict, record: dict) -> None:
    add_views(record, stage, params)
    if is_first():
        write_record(stage.folder, record)


def asked_sounds(stage: Stage, words: str) -> list[str]:
    """The negative sounds under which 'benchmark:split' words are scored."""
    sounds = negative_sounds(stage.config.negative_sounds)
    if len(stage.data.source(words)) < 2:  # there is no other sound
        sounds = [sound for sound in sounds if sound != "foreign"]
    return list(sounds)


def masks_folder(stage: Stage, name: str) -> Path:
    """Return where the predicted masks of a test set are saved."""
    return stage.folder / "masks" / name


def picture_path(stage: Stage, name: str) -> Path:
    """Return where the picture of a test set is saved."""
    return stage.folder / f"{name}.png"


def _save_picture(stage: Stage, params: dict, name: str, words: str) -> None:
    with stage.batches(words) as batches:
        batch = next(batches)
    placed = stage.put(batch)
    predicted = own_rows(placed, stage.predict(params, placed).argmax(1))
    if is_first():
        save_picture(picture_path(stage, name), batch, predicted, stage.class_names)


@dataclasses.dataclass(frozen=True)
class _Scoring:
    """One test set of a stage, see `evaluate`."""

    stage: Stage
    params: dict
    name: str
    words: str
    keeper: Keeper | None

    def _count(
        self,
        add: Callable[[Counts, AVBatch], Counts],
        empty: Counts,
        what: str,
        sounds: str = "own",
    ) -> Counts:
        shown = what if what == "masks" else f"sound: {what}"
        title = f"{self.stage.name} {self.name}, {shown}"
        with self.stage.batches(self.words, sounds) as batches:
            return count(batches, add, empty, self._kept(what), title=title)

    def _kept(self, what: str) -> KeptCounts | None:
        if self.keeper is None:
            return None
        data = self.stage.data.source(self.words).fingerprint()
        return self.keeper.at(f"{self.name}-{what}", what=what, words=self.words, data=data)

    def under_negative_sounds(self) -> dict[str, dict]:
        """Sound -> {"miou", "fscore", "activated"}."""
        evaluator, results = self.stage.evaluator, {}
        for sound in asked_sounds(self.stage, self.words):

            def add(counts: Counts, batch: AVBatch) -> Counts:
                placed = self.stage.put(batch)
                scores = self.stage.predict(self.params, placed)
                state = evaluator.score(scores, placed, batch)
                return Counts({"": counts.states[""].merge(state)})

            empty = Counts({"": evaluator.empty()})
            counts = self._count(add, empty, sound, sound)
            results[sound] = dict(evaluator.results(counts.states[""]))
        return results

    def save_masks(self) -> None:
        """Save the predicted masks of all annotated frames as PNG, all of them or none."""
        stage, folder = self.stage, masks_folder(self.stage, self.name)
        uids = stage.data.source(self.words).table.uid
        # As the benchmarks' files count.
        first = int(not self.words.startswith("avss:") and stage.binary)
        if self.keeper and in_turn(lambda: folder.exists() and not partial_folder(folder).exists()):
            return
        partial = start_masks(folder, uids, go_on=self.keeper is not None)
        if self.keeper and not in_turn(partial.exists):
            in_turn(self._kept("masks").forget)

        def pictures(batch: AVBatch) -> Iterator[Image.Image]:
            placed = stage.put(batch)
            scores = own_rows(placed, stage.predict(self.params, placed))
            if stage.binary:
                yield from map(Image.fromarray, soft_masks(scores, stage.protocol.score_rule))
            else:
                yield from map(palette_picture, scores.argmax(1))

        def add(counts: Counts, batch: AVBatch) -> Counts:
            write_masks(partial, batch, pictures(batch), uids, first)
            return counts

        self._count(add, Counts({}), "masks")
        finish_masks(folder)

    def scored(self) -> tuple[dict, FrameCounts, FrameFacts]:
        """Scores, and what they are made of; where the data set knows all visible objects and what
        moves, also those by motion and of predictors that hear nothing."""
        stage = self.stage
        source = stage.data.source(self.words)
        all_known = "objects" in source[0].maps
        frequent = 1 if stage.binary or not all_known else _frequent_class(stage)
        reader = FrameReader(source, stage.spec, stage.cache)

        def add(counts: Counts, batch: AVBatch) -> Counts:
            placed, facts = stage.put(batch), counts.facts
            scores = stage.predict(self.params, placed)
            state = stage.evaluator.score(scores, placed, batch)
            states = {**counts.states, "": counts.states[""].merge(state)}
            predicted = own_rows(placed, scores.argmax(1))
            if not all_known:
                return Counts(states, facts.add(predicted, batch, batch.flow_mask))
            maps = {name: _maps(reader, batch, name) for name in ("objects", "moving")}
            facts = facts.add(predicted, batch, maps["moving"])
            if stage.binary:
                maps["objects"] = (maps["objects"] > 0).astype(np.uint8)
            motion = counts.motion.merge(motion_state(predicted, batch.labels, **maps))
            predictions = trivial_predictions(
                **maps, num_classes=stage.num_classes, frequent_class=frequent
            )
            for name, prediction in predictions.items():
                state = stage.evaluator.score_labels(prediction, batch)
                states[name] = states[name].merge(state) if name in states else state
            return Counts(states, facts, motion)

        empty = Counts({"": stage.evaluator.empty()}, FrameFacts.empty(stage.num_classes))
        counts = self._count(add, empty, "own")
        states = counts.states
        results = {name: dict(stage.evaluator.results(state)) for name, state in states.items()}
        by_motion = dict(counts.motion.over_processes().compute()) if all_known else {}
        return results.pop("") | by_motion | results, states[""], counts.facts


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
