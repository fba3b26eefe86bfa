"""What a report knows of one test set: scores of clips, classes and kinds of frames, as JSON.

`STAGE/report/<test set>.json` in a run's folder; `clips` adds pictures and sounds of some clips.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ssp_jax.data.datasets import parse_word
from ssp_jax.data.sounds import table_sounds
from ssp_jax.errors import UserError
from ssp_jax.evaluators.frame_facts import FrameFacts
from ssp_jax.files import write_whole
from ssp_jax.metrics_binary import BinaryState
from ssp_jax.metrics_semantic import SemanticState
from ssp_jax.report.groups import clip_scores, frame_groups, is_sounding, score_frames
from ssp_jax.run_folder import STAGES
from ssp_jax.stage import Stage
from tfds_builders.facts import read_dataset_facts
from tfds_builders.prepare import GENERATED

FOLDER = "report"
_FORMAT = 1
# Which maps tell what moves.
_BY_MAPS, _BY_FLOW = "the generator's own maps", "the flow mask that the run reads"

Record = dict[str, Any]


def make_record(
    stage: Stage,
    name: str,
    words: str,
    scores: Mapping[str, Any],
    state: BinaryState | SemanticState,
    facts: FrameFacts,
) -> Record:
    """The record of a test set after its evaluation; all processes have to ask.

    Args:
      name: of the test set in results, `words` what it is. scores: its entry in results.
    """
    binary = stage.binary
    frames, noted = state.frames(), facts.frames.frames()
    table = stage.data.source(words).table
    scored = score_frames(frames, binary=binary)
    clips = clip_scores(scored, frames["clip"])
    sounding = np.unique(frames["clip"][is_sounding(frames, binary=binary)])
    by_maps = "objects" in stage.data.source(words)[0].maps
    result = state.compute(stage.protocol)
    return {
        "format": _FORMAT,
        "name": name,
        "stage": stage.name,
        "words": words,
        "generated": sorted(_benchmarks(words) & set(GENERATED)),
        "left_out": {
            benchmark: len(read_dataset_facts(stage.data.folders[benchmark]).left_out)
            for benchmark in sorted(_benchmarks(words))
        },
        "protocol": stage.protocol.name,
        "binary": binary,
        "num_clips": result.num_clips,
        "num_frames": result.num_frames,
        "num_padded": 0 if binary else result.num_padded_frames,
        "scores": _finite(scores),
        "clips": [
            {
                **clip,
                "uid": table.uid[clip["clip"]],
                "subset": table.subset[clip["clip"]],
                "category": table.category[clip["clip"]],
                "sounding": bool(np.isin(clip["clip"], sounding)),
            }
            for clip in clips
        ],
        "classes": _classes(stage, words, scored, frames, result),
        "confusion": {
            "names": list(stage.class_names),
            "pixels": facts.confusion_of_all().tolist(),
        },
        "groups": frame_groups(
            frames,
            binary=binary,
            subsets=table.subset,
            facts=noted,
            moving_from=_BY_MAPS if by_maps else _BY_FLOW,
        ),
        "views": [],
    }


def _benchmarks(words: str) -> set[str]:
    return {parse_word(part)[0] for part in words.split("+")}


def _classes(stage: Stage, words: str, scored, frames, result) -> list[dict]:
    """Per class: of the semantic task's metric, or of the frames of clips whose category names it;
    with the number of training clips whose category does, None where categories say nothing."""
    names = stage.data.class_names[1:] if not stage.binary else stage.data.sound_names
    if not names:
        return []
    in_training = None
    if stage.trains:  # else the training clips are not to be opened, perhaps not even here
        train = stage.data.source(stage.words["train"]["train"])
        in_training = _named(train.table.category, names)
    if not stage.binary:
        trained = [None, *(in_training or [None] * len(names))]
        values = zip(
            stage.class_names,
            result.miou_per_class.tolist(),
            result.fscore_per_class.tolist(),
            result.class_count.tolist(),
            trained,
            strict=True,
        )
        keys = ("name", "iou", "fscore", "count", "trained")
        return [dict(zip(keys, row, strict=True)) for row in values if row[3]]
    named, _ = table_sounds(stage.data.source(words).table.category, names)
    of_frames = named[frames["clip"]] > 0
    return [
        {"name": name, "trained": in_training and in_training[index]}
        | scored.of(of_frames[:, index])
        for index, name in enumerate(names)
        if of_frames[:, index].any()
    ]


def _named(categories: Sequence[str], names: Sequence[str]) -> list[int] | None:
    """Count how many clips' categories name each class."""
    named, known = table_sounds(categories, names)
    return named.sum(axis=0).astype(int).tolist() if known.any() else None


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def record_path(folder: Path, name: str) -> Path:
    """Return where the record of a test set lies, below the folder of its stage."""
    return folder / FOLDER / f"{name}.json"


def write_record(folder: Path, record: Record) -> None:
    """Into the folder of its stage, whole."""
    path = record_path(folder, record["name"])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(record) + "\n")


def read_records(workdir: Path) -> dict[str, Record]:
    """Test set -> record, of all stages in a run's folder, in their order.

    Raises:
      UserError: there is none, or one is damaged or of another version.
    """
    paths = [path for stage in STAGES for path in sorted(workdir.glob(f"{stage}/{FOLDER}/*.json"))]
    if not paths:
        raise UserError(
            f"{workdir}: nothing to report (no STAGE/{FOLDER}/*.json). Give the run's own command "
            "once more with --config.report=True: it trains nothing twice, and keeps them"
        )
    records = {}
    for path in paths:
        try:
            record = json.loads(path.read_text())
            if record["format"] != _FORMAT:
                raise ValueError(f"format {record['format']!r}, expected {_FORMAT}")
            records[str(record["name"])] = record
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"{path}: damaged, or of another version ({error}). Give the run's own command "
                "once more, which writes it anew"
            ) from error
    return records


def clip_iou(record: Record) -> tuple[list[str], Float[np.ndarray, " clips"]]:
    """uid and IoU of every clip."""
    clips = record["clips"]
    return [clip["uid"] for clip in clips], np.array([clip["iou"] for clip in clips], float)
