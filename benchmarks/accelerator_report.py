"""What the parts of `benchmarks.accelerator` find, and the report that is made of it."""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

# Of a part. What was not run is no failure, but is said.
WAITING, RUNNING, DONE, FAILED, NOT_RUN = "waiting", "under way", "done", "failed", "not run"


class NotRun(Exception):
    """Raised by a part that cannot be run here; its text says why."""


class Findings:
    """Writes what a part finds into a file, line by line as soon as it is known: a part that is
    ended or crashes loses nothing of it."""

    def __init__(self, path: Path):
        self._path = path

    def check(self, name: str, value: float, limit: float, *, at_least: bool = False) -> None:
        """A measured value, and the most (or least) that passes; NaN never does."""
        value, limit = float(value), float(limit)
        passed = value >= limit if at_least else value <= limit
        self._write(check=name, value=value, limit=limit, at_least=at_least, passed=bool(passed))

    def row(self, cells: Mapping[str, Any]) -> None:
        """A row of the part's table, by the names of its columns."""
        self._write(row={name: str(cell) for name, cell in cells.items()})

    def note(self, text: str) -> None:
        """A line of text."""
        self._write(note=text)

    def fact(self, **facts: Any) -> None:
        """Record what the command has to know of this part."""
        self._write(facts=facts)

    def not_run(self, why: str) -> None:
        """The part cannot be run here."""
        self._write(not_run=why)

    def _write(self, **line: Any) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def read_findings(path: Path) -> list[dict[str, Any]]:
    """The lines that are whole."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


@dataclasses.dataclass
class PartResult:
    """A part as far as it has come.

    Attributes:
      state: one of `WAITING`, `RUNNING`, `DONE`, `FAILED`, `NOT_RUN`. why: of the last two, in one
        line. log: the end of what it printed, where it failed. found: lines of its `Findings`.
    """

    title: str
    state: str = WAITING
    why: str = ""
    log: str = ""
    seconds: float = 0.0
    found: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def checks(self) -> list[dict[str, Any]]:
        """Those that were made."""
        return [line for line in self.found if "check" in line]

    @property
    def failed(self) -> bool:
        """Whether it broke off, or a check says so."""
        return self.state == FAILED or not all(check["passed"] for check in self.checks)

    @property
    def verdict(self) -> str:
        """'PASSED' only where it came to its end."""
        if self.failed:
            return "FAILED"
        return {DONE: "PASSED"}.get(self.state, self.state)

    def facts(self) -> dict[str, Any]:
        """All that `Findings.fact` was told."""
        return {k: v for line in self.found for k, v in line.get("facts", {}).items()}


def verdict(parts: Sequence[PartResult]) -> str:
    """The report's first line, without its mark."""
    checks = [check for part in parts for check in part.checks]
    passed = sum(check["passed"] for check in checks)
    counted = f"{passed} of {len(checks)} checks passed"
    if broken := sum(part.state == FAILED for part in parts):
        counted += f", {broken} part{'s' * (broken > 1)} broke off"
    if skipped := sum(part.state == NOT_RUN for part in parts):
        counted += f", {skipped} part{'s' * (skipped > 1)} not run"
    if any(part.failed for part in parts):
        return f"FAILED ({counted})"
    if any(part.state in (WAITING, RUNNING) for part in parts):
        return f"not finished ({counted} so far)"
    return f"PASSED ({counted})" if checks else "nothing was checked"


def render(parts: Sequence[PartResult], lines: Iterable[str]) -> str:
    """The report as Markdown; `lines` stand below its head."""
    text = [f"# Accelerator check: {verdict(parts)}", *lines]
    for number, part in enumerate(parts, 1):
        text.append("\n".join(_part(number, part)))
    return "\n\n".join(text) + "\n"


def _part(number: int, part: PartResult) -> Iterable[str]:
    took = f", {part.seconds:.0f} s" if part.seconds else ""
    yield f"## {number}. {part.title}: {part.verdict}{took}"
    if part.why:
        yield f"\n{part.state}: {part.why}"
    if part.checks:
        yield "\n| check | measured | limit | |\n|---|---|---|---|"
        for check in part.checks:
            sign = "≥" if check["at_least"] else "≤"
            measured, limit = _number(check["value"]), _number(check["limit"])
            word = "PASS" if check["passed"] else "**FAIL**"
            yield f"| {_cell(check['check'])} | {measured} | {sign} {limit} | {word} |"
    rows = [line["row"] for line in part.found if "row" in line]
    if rows:
        columns = list(dict.fromkeys(name for row in rows for name in row))
        yield f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}"
        for row in rows:
            yield f"| {' | '.join(_cell(row.get(name, '')) for name in columns)} |"
    notes = [line["note"] for line in part.found if "note" in line]
    if notes:
        yield "\n" + "\n".join(f"- {note}" for note in notes)
    if part.log:
        yield f"\n```\n{part.log}\n```"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _number(value: float) -> str:
    if math.isfinite(value) and value == round(value) and abs(value) < 1e6:
        return str(round(value))
    return f"{value:.3g}"
