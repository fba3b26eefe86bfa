"""What the builders of downloaded benchmarks share: a source folder, its tables, its files."""

import abc
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ssp_jax.errors import UserError
from tfds_builders.base import ClipBuilder, Options
from tfds_builders.classes import PUBLISHED_SHA256, count_finding
from tfds_builders.clip_files import ClipConverter, ClipFiles, digest
from tfds_builders.facts import sha256_of
from tfds_builders.folders import Layout, find_root
from tfds_builders.problems import ClipResult, Problem


class FolderBuilder(ClipBuilder, skip_registration=True):
    """A builder of clips that lie in a folder as downloaded."""

    LAYOUT: Layout

    def __init__(self, *, source: str | Path, options: Options | None = None, **kwargs):
        """Finds the benchmark in `source` and reads its tables; no clip is touched yet.

        Raises:
          UserError: another benchmark's folder, or tables that cannot be read.
        """
        self.root = find_root(source, self.LAYOUT)
        self.table_problems: list[Problem] = []
        self.table_warnings: list[Problem] = []
        self._clips = self.read_tables()
        super().__init__(options=options, **kwargs)

    @abc.abstractmethod
    def read_tables(self) -> Mapping[str, Sequence[ClipFiles]]:
        """Clips of every split; fills `table_problems` and `table_warnings`."""

    @abc.abstractmethod
    def tables(self) -> Sequence[Path]:
        """Files that decide what the data set is."""

    @abc.abstractmethod
    def label_reader(self) -> ClipConverter:
        """The converter of this benchmark's clips."""

    def clips(self) -> Mapping[str, Sequence[ClipFiles]]:
        return self._clips

    def converter(self) -> Callable[[ClipFiles], ClipResult]:
        return self._converter

    @functools.cached_property
    def _converter(self) -> ClipConverter:
        return self.label_reader()

    @functools.cached_property
    def _stats(self) -> dict[ClipFiles, list[tuple[str, int, int]]]:
        return {c: c.stats(self.root) for clips in self._clips.values() for c in clips}

    def fingerprint(self, clip: ClipFiles) -> str:
        row = (clip.uid, clip.vid, clip.subset, clip.category, clip.starts_at_6)
        repeats = self.options.repeat_last_frame and clip.starts_at_6
        return digest((row, repeats, self.conversion_key(), self._stats[clip]))

    def conversion_key(self) -> str:
        """Return what else every label depends on."""
        return ""

    def files_fingerprint(self) -> str:
        # Without dates: a copied folder is the same source.
        files = [[(name, size) for name, size, _ in stats] for stats in self._stats.values()]
        return digest(files)

    def identity(self) -> dict[str, Any]:
        return {
            "source": str(self.root),
            "sha256": {path.name: sha256_of(path) for path in self.tables()},
        }

    def table_findings(self) -> tuple[Sequence[Problem], Sequence[Problem]]:
        return self.table_problems, self.table_warnings

    def warn(self, path: Path, what: str, kind: str) -> None:
        """Notes a warning about the data set as a whole."""
        self.table_warnings.append(Problem("", str(path), what, kind))

    def check_published(self, path: Path, counts: dict[tuple[str, str], int]) -> None:
        """Warns of tables and (subset, split) counts that differ from the published ones."""
        for table in self.tables():
            if table.is_file() and sha256_of(table) != PUBLISHED_SHA256[table.name]:
                self.warn(
                    table,
                    "differs from the copy in public repositories (sha256"
                    f" {PUBLISHED_SHA256[table.name][:12]}...)",
                    "other_table",
                )
        if finding := count_finding(counts):
            self.warn(path, finding, "other_count")


def read_start(value: str) -> int:
    """A start second.

    Raises:
      ValueError: not a whole number from 0 on.
    """
    if not value.isascii() or not value.isdigit():
        raise ValueError(f"start {value!r}, expected a whole second")
    return int(value)


def require_clips(path: Path, clips: Mapping[str, Sequence[ClipFiles]], problems) -> None:
    """Raises a UserError where a table names no clip at all and no problem says why."""
    if not any(clips.values()) and not problems:
        raise UserError(f"{path}: names no clip of the splits train, val and test.")
