"""Reads a benchmark's csv table and refuses rows that cannot name a clip."""

import collections
import csv
from collections.abc import Sequence
from pathlib import Path

from ssp_jax.errors import UserError
from tfds_builders.problems import Problem

MAX_BYTES = 64 << 20
MAX_NAME = 200  # of a file system's 255, since endings are added


class Table:
    """Rows of a csv file that have every column, and problems of the others.

    Attributes:
      rows: column -> value, outer white space removed. problems: of rows that were dropped.
    """

    def __init__(self, path: Path, columns: Sequence[str], key: str, checked: Sequence[str]):
        """Reads the file.

        Args:
          path: the csv file, UTF-8 with a header.
          columns: those that must be there; others are ignored.
          key: the column that names the clip; unique.
          checked: columns that become part of a path.

        Raises:
          UserError: unreadable, a column missing, or no rows.
        """
        self.path, self.rows, self.problems = path, [], []
        expected = f"expected a header with the columns {','.join(columns)}"
        try:
            if not path.is_file() or path.stat().st_size > MAX_BYTES:
                raise OSError(f"not a file, or one of more than {MAX_BYTES >> 20} MiB")
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file)
                header = [name.strip() for name in reader.fieldnames or ()]
                reader.fieldnames = header
                missing = [column for column in columns if column not in header]
                if missing:
                    raise UserError(
                        f"{path}: missing column {', '.join(missing)}; {expected}, found"
                        f" {','.join(header) or 'an empty file'}. Take the csv file of the release."
                    )
                for row in reader:
                    self._add(row, reader.line_num, columns, key, checked)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(
                f"{path}: cannot be read as a csv file ({error}); {expected}."
            ) from error
        if not self.rows and not self.problems:
            raise UserError(f"{path}: not a single row below the header; {expected} and its rows.")
        counts = collections.Counter(row[key] for row in self.rows)
        for name, count in counts.items():
            if count > 1:
                self.refuse(name, f"listed {count} times, expected once", "duplicate_clip")

    def refuse(self, clip: str, what: str, kind: str) -> None:
        """Notes a problem of the table."""
        self.problems.append(Problem(clip, str(self.path), what, kind))

    def _add(self, row, line: int, columns, key: str, checked) -> None:
        if any(row[column] is None for column in columns):
            self.refuse(row[key] or "", f"line {line} has too few columns", "short_row")
            return
        row = {column: row[column].strip() for column in columns}
        for column in checked:
            if reason := unsafe_name(row[column]):
                self.refuse(
                    row[key],
                    f"line {line}: {column} {row[column]!r} {reason}; expected the plain name of a"
                    " file or folder inside the data set",
                    "unsafe_name",
                )
                return
        self.rows.append(row)


def unsafe_name(name: str) -> str | None:
    """Why a name must not become part of a path (it could lead out of the folder), or None."""
    if not name:
        return "is empty"
    if name in (".", ".."):
        return "is no name"
    if any(character in name for character in "/\\\0"):
        return "holds a path separator"
    if len(name.encode(errors="replace")) > MAX_NAME:
        return f"is longer than {MAX_NAME} bytes"
    return None
