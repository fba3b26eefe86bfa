"""Where numbers go while a run is on: JSON lines, and the trackers that the config names."""

import json
import math
import time
from pathlib import Path

from ssp_jax.errors import UserError
from ssp_jax.files import is_remote, write_whole
from ssp_jax.processes import is_first
from ssp_jax.trackers import Trackers

# Seconds between two writings on gs://, where nothing is appended, the file is written anew each
# time, and one object takes a write a second.
_APART = 2.0


class MetricsWriter:
    """Appends scalars to `metrics.jsonl` in a folder, and tells the trackers; process 0 does.

    A resumed run first drops the lines of steps that it will do again, so that the file holds
    each step once; at step 0 that is all of them. Trackers are told the step's other lines anew.
    """

    def __init__(
        self,
        folder: Path,
        *,
        resume_step: int = 0,
        evaluated: bool = True,
        trackers: Trackers | None = None,
    ):
        """`evaluated`: False where the evaluation of `resume_step` will be done again, too.

        Raises:
          UserError: something else is in the file's place.
        """
        self._path, self._trackers = folder / "metrics.jsonl", trackers
        self._lines, self._written = [], -math.inf
        if not is_first():
            return
        folder.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            if not self._path.is_file():
                raise UserError(f"{self._path}: expected a file; move away what is there")
            last = resume_step or -1
            lasts = last, last if evaluated else last - 1
            lines = self._path.read_bytes().decode(errors="replace").splitlines()
            self._lines = [line + "\n" for line in lines if _is_kept(line, *lasts)]
            write_whole(self._path, "".join(self._lines))
            self._tell_again(resume_step, self._lines)

    def _tell_again(self, step: int, lines: list[str]) -> None:
        for numbers in map(json.loads, lines):
            if self._trackers is not None and numbers.pop("step") == step:
                told = {k: math.nan if v is None else v for k, v in numbers.items()}
                self._trackers.write(step, told)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Add one line {"step": step, name: value, ...}; not-a-number becomes null."""
        if not is_first():
            return
        line = {"step": step} | {
            name: float(value) if math.isfinite(value) else None for name, value in scalars.items()
        }
        text = json.dumps(line) + "\n"
        if not is_remote(self._path):
            with self._path.open("a") as file:
                file.write(text)
        else:
            self._lines.append(text)
            if time.monotonic() - self._written > _APART:
                self.flush()
        if self._trackers is not None:
            self._trackers.write(step, scalars)

    def flush(self) -> None:
        """Bring to gs:// what was not yet; elsewhere every line is in the file at once."""
        if self._lines and is_first() and is_remote(self._path):
            write_whole(self._path, "".join(self._lines))
            self._written = time.monotonic()

    def close(self) -> None:
        """Finish writing, and close the trackers."""
        self.flush()
        if self._trackers is not None:
            self._trackers.close()


def _is_kept(line: str, last_step: int, last_evaluation: int) -> bool:
    # A line cut off by a crash, or damaged, is not JSON; it is dropped.
    try:
        numbers = json.loads(line)
        evaluation = any(name.startswith("val/") for name in numbers)
        return int(numbers["step"]) <= (last_evaluation if evaluation else last_step)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return False
