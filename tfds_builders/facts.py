"""What readers must know of a prepared data set: dataset.json beside its shards."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ssp_jax.errors import UserError
from ssp_jax.json_files import read_sealed, seal
from tfds_builders.problems import write_atomically

FACTS_FILE = "dataset.json"
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class DatasetFacts:
    """Facts about a prepared data set.

    Attributes:
      benchmark: s4, ms3, avss or builtin.
      class_names: class index -> name, background first.
      sound_names: classes that a clip's category can name; empty where nothing is known (MS3).
      splits: split -> number of clips, empty splits included (TFDS has only those with clips).
      clips: split -> `clips_digest` of its uids in order, so that shards that were exchanged show;
        empty in data sets of before this was kept.
      frame_size: side of the stored frames, None where they are in their own resolution. Label
        maps always keep theirs, since the scored ground truth is derived from it.
      identity: what the data were made from (folder, sha256 of its tables, options).
      files: fingerprint of names and sizes of all source files.
      left_out: problems of clips that a partial data set lacks: dicts of clip, path, what, kind.
      tolerated: problems that were repaired on request, the clip being kept; dicts likewise.
      warnings: findings that left nothing out, dicts likewise.
      warning_counts: kind -> number of findings, of `tolerated` and `warnings`.
    """

    benchmark: str
    class_names: tuple[str, ...]
    sound_names: tuple[str, ...]
    splits: Mapping[str, int]
    frame_size: int | None
    identity: Mapping[str, Any]
    files: str
    clips: Mapping[str, str] = dataclasses.field(default_factory=dict)
    left_out: Sequence[Mapping[str, str]] = ()
    tolerated: Sequence[Mapping[str, str]] = ()
    warnings: Sequence[Mapping[str, str]] = ()
    warning_counts: Mapping[str, int] = dataclasses.field(default_factory=dict)


def write_dataset_facts(folder: Path, facts: DatasetFacts) -> None:
    """Writes dataset.json into a data set's folder, atomically."""
    stored = {"format": _FORMAT, **json.loads(json.dumps(dataclasses.asdict(facts)))}
    write_atomically(folder / FACTS_FILE, json.dumps(seal(stored), indent=1))


def read_dataset_facts(prepared_dir: str | Path) -> DatasetFacts:
    """Facts of a prepared data set.

    Args:
      prepared_dir: the version folder that `prepare` returns.

    Raises:
      UserError: no such file, or not of this format.
    """
    path = Path(prepared_dir) / FACTS_FILE
    advice = (
        "expected the folder that `python -m tfds_builders.prepare` names at its end; prepare the"
        " data set again"
    )
    if not path.exists():
        raise UserError(f"{prepared_dir}: no prepared data set (no {FACTS_FILE}); {advice}.")
    stored = read_sealed(path, advice[0].upper() + advice[1:])
    if stored.pop("format", None) != _FORMAT:
        raise UserError(f"{path}: not of format {_FORMAT}; {advice}.")
    try:
        facts = DatasetFacts(**stored)
        _check_kinds(facts)
    except TypeError as error:
        raise UserError(f"{path}: {error}; {advice}.") from error
    return dataclasses.replace(
        facts, class_names=tuple(facts.class_names), sound_names=tuple(facts.sound_names)
    )


def _check_kinds(facts: DatasetFacts) -> None:
    """Check what readers rely on; raises TypeError."""
    lists = facts.class_names, facts.sound_names, facts.left_out, facts.tolerated
    tables = facts.splits, facts.identity, facts.clips, facts.warning_counts
    names = [*facts.class_names, *facts.sound_names, *facts.splits]
    if not (
        all(isinstance(value, list | tuple) for value in lists)
        and all(isinstance(value, dict) for value in tables)
        and all(isinstance(name, str) for name in names)
        and all(isinstance(count, int) for count in facts.splits.values())
    ):
        raise TypeError("a value of another kind than expected")


def known_by(facts: DatasetFacts) -> dict[str, Any]:
    """Return, as JSON values, what tells a data set from others, wherever and whenever it lies."""
    identity = {key: value for key, value in facts.identity.items() if key != "source"}
    kept = ("benchmark", "class_names", "sound_names", "splits", "clips", "frame_size", "files")
    return json.loads(json.dumps({name: getattr(facts, name) for name in kept} | identity))


def clips_digest(uids: Iterable[str]) -> str:
    """Digest the names of a split's clips, in order."""
    return hashlib.sha256("\n".join(uids).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
