"""Where a finished run loses its points: in what it takes for sounding, its name, or its outline.

    python -m benchmarks.selection RUN [RUN ...] [--stage=avss]

For the built-in benchmark, whose objects are all known. Of the sounding objects in the test
frames: how many are found (more than half of their pixels), and how many of these by the right
name; of the silent ones: how many are taken for sounding, and the same of those that sound in no
second of the clip, which A2 could tell; in how many frames all of that is right; the mean IoU of
all that sounds, there and in all frames; and per 100 frames the classes that are predicted
somewhere in a frame whose truth does not have them, each of which mIoU counts with zero.
"""

import collections
import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator

import numpy as np
from absl import app, flags
from jaxtyping import Bool, Integer

from ssp_jax.batch import AVBatch
from ssp_jax.command_line import show_own_log
from ssp_jax.data.reader import FrameReader
from ssp_jax.mask_prompts import prompt_by
from ssp_jax.run import open_stages
from ssp_jax.run_facts import run_config
from ssp_jax.stage import Stage
from ssp_jax.stage_training import trained_params
from tfds_builders.places import local_path

_STAGE = flags.DEFINE_enum("stage", "avss", ["avs", "avss"], "Of the runs.")
SMALLEST = 20  # pixels of an object that counts; fewer are an edge behind another object
_COLUMNS = (
    *("found", "of these named", "silent taken", "never sounding taken"),
    *("choice right", "IoU there", "IoU", "stray"),
)


@dataclasses.dataclass(frozen=True)
class Frame:
    """A frame of a test set: class maps of what is predicted, what sounds and what is visible."""

    clip: int
    predicted: Integer[np.ndarray, "h w"]
    truth: Integer[np.ndarray, "h w"]
    objects: Integer[np.ndarray, "h w"]


def visible_objects(frame: Frame) -> Iterator[tuple[int, Bool[np.ndarray, "h w"], bool]]:
    """(class, pixels, does it sound) of each; nothing of which no more than an edge is seen."""
    for label in np.unique(frame.objects[frame.objects > 0]):
        pixels = frame.objects == label
        if pixels.sum() >= SMALLEST:
            yield int(label), pixels, (frame.truth[pixels] > 0).mean() > 0.5


def heard_classes(frames: Iterable[Frame]) -> dict[int, set[int]]:
    """By clip, the classes of the objects that sound in any of its frames."""
    heard = collections.defaultdict(set)
    for frame in frames:
        heard[frame.clip] |= {label for label, _, sounds in visible_objects(frame) if sounds}
    return heard


def frames_of(
    stage: Stage, words: str, predict: Callable[[AVBatch], Integer[np.ndarray, "N h w"]]
) -> list[Frame]:
    """All valid frames of a data set; `predict` maps a batch to classes."""
    reader, frames = FrameReader(stage.data.source(words), stage.spec, stage.cache), []
    with stage.batches(words) as batches:
        for batch in batches:
            predicted = predict(batch)
            for slot in np.flatnonzero(batch.valid):
                clip, second = int(batch.clip[slot]), int(batch.second[slot])
                (objects,) = reader.maps(clip, "objects", [second])
                frames.append(Frame(clip, predicted[slot], batch.labels[slot], objects))
    return frames


@dataclasses.dataclass
class Counts:
    """Sums over frames; `shares` makes per cent of them."""

    counts: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    def add(self, frame: Frame, heard: Collection[int], *, binary: bool) -> None:
        """Count a frame.

        Args:
          heard: classes that sound in any second of its clip.
          binary: its prediction has no names but "sounding".
        """
        counts, predicted, truth, right = self.counts, frame.predicted, frame.truth, True
        for label, pixels, sounds in visible_objects(frame):
            marked = predicted[pixels][predicted[pixels] > 0]
            taken = len(marked) > pixels.sum() / 2
            kinds = ["sounding"] if sounds else ["silent"]
            if label not in heard:
                kinds.append("never")
            for kind in kinds:
                counts[kind] += 1
                counts[f"{kind} taken"] += taken
            right &= taken == sounds
            if sounds and taken:
                counts["named"] += binary or np.bincount(marked).argmax() == label
        union = ((predicted > 0) | (truth > 0)).sum()
        if union:
            iou = ((predicted > 0) & (truth > 0)).sum() / union
            counts["with sound"] += 1
            counts["iou"] += iou
            counts["right with sound"] += right
            counts["iou where right"] += iou * right
        counts["frames"] += 1
        counts["right"] += right
        counts["stray"] += len(np.setdiff1d(predicted[predicted > 0], truth))

    def shares(self) -> tuple[float, ...]:
        """Of `_COLUMNS`, in per cent."""
        counts = self.counts
        fractions = (
            *(("sounding taken", "sounding"), ("named", "sounding taken")),
            *(("silent taken", "silent"), ("never taken", "never"), ("right", "frames")),
            *(("iou where right", "right with sound"), ("iou", "with sound"), ("stray", "frames")),
        )
        return tuple(100 * counts[a] / max(counts[b], 1) for a, b in fractions)


def selection(stage: Stage, params: dict, words: str) -> Counts:
    """Counts of a data set as the stage predicts it."""
    frames = frames_of(
        stage, words, lambda batch: np.asarray(stage.predict(params, stage.put(batch)).argmax(1))
    )
    counts, heard = Counts(), heard_classes(frames)
    for frame in frames:
        counts.add(frame, heard[frame.clip], binary=stage.binary)
    return counts


def main(argv):
    """Prints a row per run and test set."""
    show_own_log()
    print(f"| run | clips | {' | '.join(_COLUMNS)} |\n|---|---|{'---|' * len(_COLUMNS)}")
    for workdir in map(local_path, argv[1:]):
        config = run_config(workdir)
        config.stages = _STAGE.value
        stages = open_stages(config, workdir)
        stage = stages[_STAGE.value]
        if stage.stage.prompt.source == "stage1":
            prompt_by(stages["avs"], trained_params(stages["avs"]), stage, uses=())
        for name, words in stage.words["test"].items():
            shares = selection(stage, trained_params(stage), words).shares()
            print(f"| {workdir} | {name} | {' | '.join(f'{x:.1f}' for x in shares)} |", flush=True)


if __name__ == "__main__":
    app.run(main)
