"""From pairs of mask files to scores; finds everything that is wrong with the files at once."""

import collections
import concurrent.futures
import dataclasses
import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ssp_jax.metrics_binary import BinaryResult, BinaryState, binary_frame_stats
from ssp_jax.metrics_semantic import SemanticResult, SemanticState, semantic_frame_stats
from ssp_jax.protocols import Protocol
from ssp_jax.score.frames import Frame
from ssp_jax.score.masks import BinaryReader, SemanticReader, check_shape, open_mask
from tfds_builders.mask_files import mask_file
from tfds_builders.problems import Problem

_BATCH = 20  # frames counted at once


@dataclasses.dataclass
class Scored:
    """What came of the files.

    Attributes:
      result: None where a file has a problem. problems: of all files.
      sizes: (width, height) -> number of predictions. largest: value in any prediction of S4, MS3.
      readings: how predictions that are not empty were read -> the files: "0 and 1", "0 and 255",
        "scores" of S4 and MS3; "class indices", "colours" of AVSS.
    """

    result: BinaryResult | SemanticResult | None
    problems: list[Problem]
    sizes: collections.Counter
    largest: int
    readings: dict[str, list[tuple[Frame, Path]]]


def score_masks(
    predictions: Mapping[Frame, Path],
    reader: BinaryReader | SemanticReader,
    protocol: Protocol,
    one: int = 255,
) -> Scored:
    """Score every frame.

    Args:
      one: value of a soft mask that stands for 1.
    """
    state = BinaryState.empty() if isinstance(reader, BinaryReader) else SemanticState.empty()
    scored = Scored(None, [], collections.Counter(), 0, collections.defaultdict(list))
    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        progress = tqdm(total=len(predictions), desc="scoring", unit="frame", mininterval=1.0)
        for batch in _batches(list(predictions.items())):
            pairs = list(pool.map(lambda item: _read(*item, reader, one), batch))
            progress.update(len(batch))
            for item, pair in zip(batch, pairs, strict=True):
                scored.problems += pair.problems
                scored.sizes.update(pair.size)
                if pair.reading:
                    scored.readings[pair.reading].append(item)
                scored.largest = max(scored.largest, pair.largest)
            if not scored.problems:  # else the files are only checked
                state = state.merge(_state([frame for frame, _ in batch], pairs, reader))
        progress.close()
    scored.problems += _of_two_kinds(scored.readings)
    if not scored.problems:
        scored.result = state.compute(protocol)
    return scored


def _of_two_kinds(readings: Mapping[str, list[tuple[Frame, Path]]]) -> Iterator[Problem]:
    """Name the fewer files of a folder whose files do not say their values alike."""
    for kinds in (("0 and 1", "0 and 255"), ("class indices", "colours")):
        # Beside scores, a mask of 0 and 1 is one of low scores.
        if not all(readings.get(kind) for kind in kinds) or "scores" in readings:
            continue
        fewer, more = sorted(kinds, key=lambda kind: len(readings[kind]))
        for frame, path in readings[fewer]:
            what = (
                f"prediction: a mask of {fewer}, while {len(readings[more])} others are of {more}; "
                "save all alike"
            )
            yield Problem(frame.uid, str(path), what, "prediction")


@dataclasses.dataclass
class _Pair:
    truth: np.ndarray | None = None
    prediction: np.ndarray | None = None
    problems: list[Problem] = dataclasses.field(default_factory=list)
    size: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    largest: int = 0
    reading: str = ""


def _read(frame: Frame, path: Path, reader, one: int) -> _Pair:
    pair, shape = _Pair(), None
    try:
        picture, encoded = open_mask(frame.truth)
        shape = picture.size
        pair.truth = reader.truth(mask_file(picture, encoded))
    except ValueError as error:
        pair.problems.append(Problem(frame.uid, str(frame.truth), f"truth: {error}", "truth"))
    try:
        _predict(path, shape, reader, one, pair)
    except ValueError as error:
        what = f"prediction: {error}"
        pair.problems.append(Problem(frame.uid, str(path), what, "prediction"))
    return pair


def _predict(path: Path, shape, reader, one: int, pair: _Pair) -> None:
    picture, encoded = open_mask(path)
    pair.size = [picture.size]
    if shape is not None:
        check_shape(picture.size, shape)
    mask = mask_file(picture, encoded)
    values = reader.prediction(mask)
    if isinstance(reader, BinaryReader):
        pair.largest = int(values.max())
        if pair.largest:
            hard = not ((values > 0) & (values < 255)).any()
            pair.reading = "0 and 255" if hard else "scores"
            if pair.largest == 1:
                pair.reading = "0 and 1"
        values = reader.scores(values, one)
    elif values.any():
        of_indices = mask.grey is not None and mask.stored == "values"
        pair.reading = "class indices" if of_indices else "colours"
    pair.prediction = values


def _batches(items: list) -> Iterator[tuple]:
    iterator = iter(items)
    while batch := tuple(itertools.islice(iterator, _BATCH)):
        yield batch


def _state(frames: list[Frame], pairs: list[_Pair], reader) -> BinaryState | SemanticState:
    """Of one batch, filled up so that all have one shape."""
    missing = _BATCH - len(pairs)
    pairs = [*pairs, *pairs[:1] * missing]
    truth = np.stack([pair.truth for pair in pairs])
    prediction = np.stack([pair.prediction for pair in pairs])
    valid = np.arange(_BATCH) < len(frames)
    clips = np.array([frame.clip for frame in frames] + [-1] * missing)
    numbers = np.array([frame.number for frame in frames] + [0] * missing)
    if isinstance(reader, BinaryReader):
        # A mask is the score map itself, whatever a protocol makes it from: rule "logit" of
        # (1 - score, score) reads the score.
        stats = binary_frame_stats(prediction, truth, valid, rule="logit")
        return BinaryState.from_stats(stats, clips, numbers)
    stats = semantic_frame_stats(prediction, truth, valid, num_classes=reader.num_classes)
    return SemanticState.from_stats(stats, clips, numbers)
