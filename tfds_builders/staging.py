"""Shards that are finished, kept beside the target until the whole data set is.

A staging folder is no TFDS data set (it has no dataset_info.json and no version's name), so it is
never mistaken for prepared data. A shard counts as finished once its sidecar exists; the sidecar is
written last, and names the shard's size and the fingerprint of everything it was made from.
"""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tensorflow_datasets.core import file_adapters
from tensorflow_datasets.core import writer as tfds_writer

from ssp_jax.folder_lock import lock
from tfds_builders.problems import Problem, write_atomically

_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class StagedShard:
    """A finished shard: its clips' names in order and what was found while making it."""

    path: Path
    split: str
    uids: tuple[str, ...]
    left_out: tuple[str, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    reused: bool


class Staging:
    """The folder of finished shards of one data set (one builder, config and version)."""

    def __init__(self, target: Path):
        """Stages for `target`, the version folder that TFDS will write ('.../1.0.0')."""
        self.folder = target.with_name(f"{target.name}.staging")
        self._lock_path = target.with_name(f".{target.name}.lock")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other processes out; waits for one that prepares the same data set."""
        with lock(self._lock_path):
            yield

    def find(self, split: str, index: int, fingerprint: str) -> StagedShard | None:
        """The finished shard of this fingerprint, or None."""
        path = self._path(split, index, fingerprint)
        try:
            stored = json.loads(_sidecar(path).read_text(encoding="utf-8"))
            if stored["format"] != _FORMAT or path.stat().st_size != stored["size"]:
                return None
            return StagedShard(
                path,
                split,
                tuple(stored["uids"]),
                tuple(stored["left_out"]),
                tuple(Problem(**p) for p in stored["problems"]),
                tuple(Problem(**p) for p in stored["warnings"]),
                reused=True,
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None  # absent or damaged: the shard is made again

    def write(
        self,
        split: str,
        index: int,
        fingerprint: str,
        serialized: Iterable[tuple[str, bytes]],
        *,
        left_out: Sequence[str],
        problems: Sequence[Problem],
        warnings: Sequence[Problem],
    ) -> StagedShard:
        """Writes a shard of (uid, serialized example) pairs and, when it is whole, its sidecar.

        The three lists are read after the last example was taken, so the producer of the
        examples may fill them as it goes.

        Raises:
          OSError: the folder cannot be written, or the disk is full.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path, uids = self._path(split, index, fingerprint), []
        temporary = path.with_name(f"{path.name}.tmp")

        producing = False

        def named():
            nonlocal producing
            producing = True
            for uid, record in serialized:
                uids.append(uid)
                producing = False
                yield uid, record
                producing = True
            producing = False

        try:
            writer = tfds_writer.ExampleWriter(file_adapters.FileFormat.ARRAY_RECORD)
            writer.write(temporary, named())
        except RuntimeError as error:
            if producing:
                raise  # a fault of the converter
            # ArrayRecord's way of saying that the disk is full.
            raise OSError(str(error)) from error
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
        sidecar = {
            "format": _FORMAT,
            "size": path.stat().st_size,
            "uids": uids,
            "left_out": list(left_out),
            "problems": [dataclasses.asdict(p) for p in problems],
            "warnings": [dataclasses.asdict(p) for p in warnings],
        }
        write_atomically(_sidecar(path), json.dumps(sidecar))
        return StagedShard(
            path,
            split,
            tuple(uids),
            tuple(left_out),
            tuple(problems),
            tuple(warnings),
            reused=False,
        )

    def prune(self, keep: Iterable[tuple[str, int, str]]) -> None:
        """Removes what an interrupted run left half-written and shards of other fingerprints."""
        if not self.folder.is_dir():
            return
        wanted = {self._path(*key) for key in keep}
        wanted |= {_sidecar(path) for path in wanted}
        for path in self.folder.iterdir():
            if path not in wanted:
                path.unlink()

    def remove(self) -> None:
        """Removes the staged shards: the data set is in place and has them all."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, split: str, index: int, fingerprint: str) -> Path:
        return self.folder / f"{split}-{index:05d}-{fingerprint[:16]}.array_record"


def _sidecar(path: Path) -> Path:
    return path.with_suffix(".json")


class StagedExampleWriter(tfds_writer.ExampleWriter):
    """Puts finished shards in TFDS's place instead of encoding examples.

    Shards stay in the staging folder as well (a hard link where the file system can), so an
    interruption before the final rename loses none.
    """

    def __init__(self, shards: dict[str, Sequence[StagedShard]]):
        super().__init__(file_adapters.FileFormat.ARRAY_RECORD)
        self._next = iter([shard for split in shards.values() for shard in split])

    def write(self, path, examples) -> None:
        """Links the next shard to `path`; `examples` only stand for its clips and are not read."""
        del examples  # ShardWriter counts them itself, from a copy of the iterator
        shard = next(self._next)
        try:
            os.link(shard.path, path)
        except OSError:
            shutil.copyfile(shard.path, path)
