"""Random access to prepared clips (TFDS, ArrayRecord), without TensorFlow.

Images come back as the encoded bytes that the builder stored: the reader decodes only the frames
that a batch needs.
"""

import dataclasses
import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Bool, Int, Int16

from ssp_jax.data.prepared_folder import open_builder
from ssp_jax.errors import UserError
from ssp_jax.json_files import is_sealed, load_json, seal
from tfds_builders.facts import FACTS_FILE, clips_digest, known_by, read_dataset_facts

TABLE_FORMAT = 1  # version of the clip table's file


class _EncodedImages(tfds.decode.SkipDecoding):
    """Leaves a sequence of images encoded (SkipDecoding itself lacks the method for sequences)."""

    def decode_batch_example_np(self, serialized_example):
        return serialized_example


@dataclasses.dataclass(frozen=True)
class Clip:
    """One prepared clip: T frames, of which the first A are annotated; images encoded.

    See `tfds_builders.features.clip_features`. `maps` holds further sequences of PNGs where the
    data set has them (objects, moving: A each). `where` names the data set's folder in messages.
    """

    uid: str
    subset: str
    category: str
    frames: tuple[bytes, ...]
    labels: tuple[bytes, ...]
    waveform: Int16[np.ndarray, " n"]
    annotated: Bool[np.ndarray, " T"]
    texts: tuple[str, str]
    maps: dict[str, tuple[bytes, ...]]
    where: str


@dataclasses.dataclass(frozen=True)
class ClipTable:
    """What is known of every clip of a source without its images: one entry per clip."""

    uid: tuple[str, ...]
    subset: tuple[str, ...]
    category: tuple[str, ...]
    num_frames: Int[np.ndarray, " clips"]
    num_annotated: Int[np.ndarray, " clips"]

    def __len__(self) -> int:
        return len(self.uid)


class _Split:
    """One split of one prepared data set; pickles as its folder and name."""

    def __init__(self, folder: str, split: str):
        self.folder, self.split = folder, split
        self._open = None

    def __getstate__(self):
        return {"folder": self.folder, "split": self.split, "_open": None}

    @functools.cached_property
    def builder(self):
        return open_builder(self.folder)

    def __len__(self) -> int:
        return self.builder.info.splits[self.split].num_examples

    def __getitem__(self, index: int) -> Clip:
        try:
            return self._read(index)
        # ArrayRecord, protobuf and NumPy raise anything for damaged bytes.
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(
                f"{self.folder}: clip {index} of {self.split} cannot be read ({lines[0][:200]})."
                " Copy the data set again, or delete it and prepare it again."
            ) from error

    def _read(self, index: int) -> Clip:
        if self._open is None:
            features = self.builder.info.features
            images = [
                name
                for name, feature in features.items()
                if isinstance(getattr(feature, "feature", None), tfds.features.Image)
            ]
            decoders = {name: _EncodedImages() for name in images}
            self._open = self.builder.as_data_source(self.split, decoders=decoders), images
        data, images = self._open
        record = data[index]
        return Clip(
            uid=record["uid"].decode(),
            subset=record["subset"].decode(),
            category=record["category"].decode(),
            frames=tuple(record["frames"]),
            labels=tuple(record["labels"]),
            waveform=record["waveform"],
            annotated=record["annotated"],
            texts=(record["texts"]["scene"].decode(), record["texts"]["sounding"].decode()),
            maps={n: tuple(record[n]) for n in images if n not in ("frames", "labels")},
            where=self.folder,
        )

    def fingerprint(self) -> str:
        """Tell what the split holds, as hexadecimal digits: the same for a copy with other dates.

        Of data sets that were prepared before their clips' names were kept, see `fingerprints`.
        """
        return self.fingerprints()[0]

    def fingerprints(self) -> tuple[str, ...]:
        """Return `fingerprint` and what older code took for it, which dates of files go into."""
        facts_file = Path(self.folder) / FACTS_FILE
        facts = read_dataset_facts(self.folder) if facts_file.exists() else None
        stats = self._file_stats()
        dated = _digest([TABLE_FORMAT, self.split, stats])
        if facts is None or self.split not in facts.clips:
            return (dated,)
        sizes = [[name, size] for name, size, _ in stats]
        return _digest([TABLE_FORMAT, self.split, sizes, known_by(facts)]), dated

    def _file_stats(self) -> list[tuple[str, int, int]]:
        files = sorted(self.builder.info.splits[self.split].filepaths)
        try:
            return [(Path(f).name, os.stat(f).st_size, os.stat(f).st_mtime_ns) for f in files]
        except OSError as error:
            raise UserError(
                f"{error.filename}: cannot be read ({error.strerror}). Copy the data set again, or"
                f" delete {self.folder} and prepare it again."
            ) from error

    def table(self) -> ClipTable:
        """Scans the split once and keeps the result beside it, where the folder can be written."""
        path = Path(self.folder) / f"clip_table-{self.split}.json"
        table = _load_table(path, self.fingerprints())
        if table is None:
            table = _scan(self)
            self._check_clips(table)
            _save_table(path, self.fingerprint(), table)
        return table

    def _check_clips(self, table: ClipTable) -> None:
        """Raises a UserError where the split has other clips than it was prepared with."""
        if not (Path(self.folder) / FACTS_FILE).exists():
            return
        expected = read_dataset_facts(self.folder).clips.get(self.split)
        if expected not in (None, clips_digest(table.uid)):
            raise UserError(
                f"{self.folder}: split {self.split} has other clips than it was prepared with, the"
                f" first is {table.uid[0]}; its files were exchanged with others. Copy the data set"
                " again, or delete it and prepare it again."
            )


def splits_of(folder: str | os.PathLike) -> list[str]:
    """Names of a prepared data set's splits, as the builder wrote them.

    Raises:
      UserError: the folder is not a prepared data set.
    """
    return list(open_builder(os.fspath(folder)).info.splits)


def _scan(split: _Split) -> ClipTable:
    rows = []
    for index in range(len(split)):
        clip = split[index]
        count = int(clip.annotated.sum())
        if count != len(clip.labels) or not clip.annotated[:count].all():
            raise UserError(
                f"{split.folder}: clip {clip.uid}: {len(clip.labels)} label maps, but the frames"
                f" marked as annotated are {np.flatnonzero(clip.annotated).tolist()}; expected the"
                " first frames, one map each. Prepare the data set again."
            )
        if len(clip.frames) != len(clip.annotated):
            raise UserError(
                f"{split.folder}: clip {clip.uid}: {len(clip.frames)} frames, but"
                f" {len(clip.annotated)} annotation flags. Prepare the data set again."
            )
        rows.append((clip.uid, clip.subset, clip.category, len(clip.frames), count))
    return _table_of(rows)


def _table_of(rows: Sequence[Sequence]) -> ClipTable:
    uid, subset, category, frames, annotated = zip(*rows, strict=True) if rows else ((),) * 5
    return ClipTable(
        tuple(uid),
        tuple(subset),
        tuple(category),
        np.array(frames, np.int64),
        np.array(annotated, np.int64),
    )


def _rows_of(table: ClipTable) -> list[tuple]:
    counts = table.num_frames.tolist(), table.num_annotated.tolist()
    return list(zip(table.uid, table.subset, table.category, *counts, strict=True))


def _digest(facts: list) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _load_table(path: Path, fingerprints: Sequence[str]) -> ClipTable | None:
    try:
        stored = load_json(path)
        if stored["fingerprint"] in fingerprints and is_sealed(stored):
            return _table_of(stored["clips"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # absent or damaged: it is only a cache, the scan writes it anew
    return None


def _save_table(path: Path, fingerprint: str, table: ClipTable) -> None:
    text = json.dumps(seal({"fingerprint": fingerprint, "clips": _rows_of(table)}))
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError:
        return  # a read-only data set: scanned anew each time
    with os.fdopen(handle, "w") as file:
        file.write(text)
    try:
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)  # something of that name is in the way


class ClipSource:
    """Clips of one or several prepared splits in one index space, 0 .. len - 1.

    Pickles as the list of its folders and splits, so worker processes open their own files.
    """

    def __init__(self, parts: Sequence[tuple[str | os.PathLike, str]]):
        """Concatenates splits.

        Args:
          parts: pairs of a prepared data set's version folder (holding dataset_info.json) and a
            split: a name as the builder wrote it ("val", "train_v1s"), or, where a data set
            splits by subset, the bare name ("test" is test_v1m, test_v1s and test_v2 together).

        Raises:
          UserError: a folder is not a prepared data set, or has no such split.
        """
        self._parts: list[_Split] = []
        for folder, split in parts:
            folder = os.path.abspath(os.fspath(folder))
            available = splits_of(folder)
            names = [split] if split in available else []
            names = names or sorted(name for name in available if name.startswith(f"{split}_"))
            if not names:
                raise UserError(
                    f"{folder}: no split {split!r}; it has {', '.join(sorted(available))}."
                )
            self._parts += [_Split(folder, name) for name in names]
        self._ends = np.cumsum([len(part) for part in self._parts])

    @property
    def name(self) -> str:
        """Folders and splits, for messages and as a key."""
        return ", ".join(f"{part.folder}:{part.split}" for part in self._parts)

    @property
    def parts(self) -> tuple[_Split, ...]:
        """Its splits in order: each has a folder, a split's name, a length and a fingerprint()."""
        return tuple(self._parts)

    def fingerprint(self) -> str:
        """Tell what the splits hold, see `fingerprint` of each."""
        return hashlib.sha256(
            "".join(part.fingerprint() for part in self._parts).encode()
        ).hexdigest()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Clip:
        """The clip of an index, its images encoded.

        Raises:
          IndexError: the index is not within 0 .. len - 1.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self._parts[part][int(index - (self._ends[part - 1] if part else 0))]

    def __add__(self, other: "ClipSource") -> "ClipSource":
        parts = [(part.folder, part.split) for part in (*self._parts, *other._parts)]
        return ClipSource(parts)

    @functools.cached_property
    def table(self) -> ClipTable:
        """Names, categories and frame counts of all clips.

        Reads every record once (about 5 ms for a clip of ten 1280x720 frames); the result is kept
        in the prepared folder as clip_table-SPLIT.json and is ignored once the data change.

        Raises:
          UserError: a clip's label maps do not fit its annotation flags.
        """
        return _table_of([row for part in self._parts for row in _rows_of(part.table())])
