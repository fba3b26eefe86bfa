"""What is wrong with a clip, collected over the whole data set before anybody is told."""

import collections
import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

SHOWN = 50  # problems that a message prints; the rest is in the problems file


@dataclasses.dataclass(frozen=True, order=True)
class Problem:
    """One finding about one clip (or, with an empty `clip`, about a table or folder).

    Attributes:
      clip: uid. path: the file concerned. what: what was found and what was expected.
      kind: short slug to count by: missing_file, unknown_colour, ...
    """

    clip: str
    path: str
    what: str
    kind: str

    def __str__(self) -> str:
        subject = f"clip {self.clip}: " if self.clip else ""
        return f"{subject}{self.what} ({self.path})"


@dataclasses.dataclass(frozen=True)
class ClipResult:
    """What a converter made of one clip.

    Attributes:
      uid: the clip.
      example: features as in `clip_features`; None where the clip cannot be used.
      problems: each refuses the data set, unless a partial one was asked for.
      warnings: reported and counted, nothing more.
    """

    uid: str
    example: dict | None
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


def count_kinds(problems: Iterable[Problem]) -> dict[str, int]:
    """Number of problems of each kind, most frequent first."""
    return dict(collections.Counter(p.kind for p in problems).most_common())


def summary(problems: Sequence[Problem], full_list: Path | None) -> str:
    """The problems as lines of a message: the first `SHOWN`, then where the others are."""
    lines = [f"  - {problem}" for problem in problems[:SHOWN]]
    if len(problems) > SHOWN:
        lines.append(f"  ... and {len(problems) - SHOWN} more")
    if full_list is not None:
        lines.append(f"  All of them: {full_list}")
    return "\n".join(lines)


def write_problems_file(path: Path, problems: Sequence[Problem]) -> None:
    """Writes one problem a line, tab-separated: kind, clip, path, what. Atomic."""
    rows = ["\t".join((p.kind, p.clip, p.path, p.what)) + "\n" for p in problems]
    write_atomically(path, "kind\tclip\tpath\twhat\n" + "".join(rows))


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file under a temporary name in the same folder, then renames it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # Names that a csv or a file system brought in need not be valid Unicode.
        with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
