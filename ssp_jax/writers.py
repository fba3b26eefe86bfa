"""Where numbers go while a run is on: JSON lines and TensorBoard events."""

import json
import math
from pathlib import Path

from tensorboardX import SummaryWriter

from ssp_jax.processes import is_first


class MetricsWriter:
    """Appends scalars to `metrics.jsonl` and to TensorBoard events in one folder; process 0 does.

    A resumed run first drops the lines of steps that it will do again, so that the file holds
    each step once.
    """

    def __init__(self, folder: Path, *, resume_step: int = 0, evaluated: bool = True):
        """`evaluated`: False where the evaluation of `resume_step` will be done again, too."""
        self._events = None
        if not is_first():
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "metrics.jsonl"
        if self._path.exists():
            last = resume_step, resume_step if evaluated else resume_step - 1
            lines = self._path.read_text(errors="replace").splitlines()
            kept = [line for line in lines if _is_kept(line, *last)]
            temporary = self._path.with_suffix(".tmp")
            temporary.write_text("".join(line + "\n" for line in kept))
            temporary.replace(self._path)
        self._events = SummaryWriter(str(folder / "events"), purge_step=resume_step or None)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Add one line {"step": step, name: value, ...}; not-a-number becomes null."""
        if self._events is None:
            return
        line = {"step": step} | {
            name: float(value) if math.isfinite(value) else None for name, value in scalars.items()
        }
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        for name, value in scalars.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush the events."""
        if self._events is not None:
            self._events.close()


def _is_kept(line: str, last_step: int, last_evaluation: int) -> bool:
    # A line cut off by a crash, or damaged, is not JSON; it is dropped.
    try:
        numbers = json.loads(line)
        evaluation = any(name.startswith("val/") for name in numbers)
        return int(numbers["step"]) <= (last_evaluation if evaluation else last_step)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return False
