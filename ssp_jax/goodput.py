"""Where the wall time of a stage's training goes, and how near its steps come to the peak."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax

from ssp_jax.devices import peak_flops

# steps: of the training, with what the loop does besides. compile: the first call of a step, which
# compiles it or loads it. input: waiting for a batch while the devices have nothing to do.
# evaluation, saving: the training waits for them. restart: all before the first step, from the
# start of the process or the end of the stage before.
KINDS = ("steps", "compile", "input", "evaluation", "saving", "restart")
_SHARE = "goodput/"
_SPEEDS = ("steps_per_second", "tflops", "mfu")
_IMPORTED = time.monotonic()


class Goodput:
    """A stopwatch that gives every second to one of `KINDS`.

    What a kill has cost (steps since the last checkpoint, the time until the next start) is in none
    of them: nobody was there to count it.

    Attributes:
      seconds: by kind, of the stage, its earlier starts included.
    """

    def __init__(self, began: float | None = None):
        """Start counting; `began`: since then, as `time.monotonic()`, by default now."""
        self._since = time.monotonic() if began is None else began
        self.go_on_from({})

    def go_on_from(self, seconds: Mapping[str, float]) -> None:
        """Count a stage, of which earlier starts have taken so many seconds by kind."""
        self.seconds = {kind: seconds.get(kind, 0.0) for kind in KINDS}

    def count(self, kind: str) -> None:
        """Give the time since the last call to `kind`."""
        now = time.monotonic()
        self.seconds[kind] += now - self._since
        self._since = now

    @contextlib.contextmanager
    def left_out(self) -> Iterator[None]:
        """Leave what is done within out of every stage's training."""
        before = time.monotonic()
        try:
            yield
        finally:
            self._since += time.monotonic() - before

    def shares(self) -> dict[str, float]:
        """Return 'goodput/KIND' -> its share of all that was counted, 0..1."""
        total = sum(self.seconds.values()) or 1.0
        return {f"{_SHARE}{kind}": value / total for kind, value in self.seconds.items()}

    def __str__(self) -> str:
        """Return '0:12:30 of wall time: steps 81.0 %, compile 9.2 %, ...'."""
        total = round(sum(self.seconds.values()))
        parts = (f"{n.removeprefix(_SHARE)} {100 * v:.1f} %" for n, v in self.shares().items())
        return (
            f"{total // 3600}:{total // 60 % 60:02d}:{total % 60:02d} of wall time: "
            + ", ".join(parts)
        )


@dataclasses.dataclass
class Speed:
    """What steps a second mean.

    Attributes:
      flops: of a step on one device, see `step_flops`; None as long as nobody knows.
    """

    flops: float | None = None

    def at(self, steps_per_second: float) -> dict[str, float]:
        """Return 'steps_per_second'; 'tflops', TFLOP/s of a device, where FLOPs are known; 'mfu',
        their share of the device's peak for bfloat16, where that is known too."""
        speeds = {"steps_per_second": steps_per_second}
        if self.flops is not None:
            done = self.flops * steps_per_second
            speeds["tflops"] = done / 1e12
            if peak := peak_flops(jax.devices()[0].device_kind):
                speeds["mfu"] = done / peak
        return speeds


def without_times(numbers: Mapping[str, float]) -> dict[str, float]:
    """Return a line of `metrics.jsonl` without what differs between two runs of equal numbers."""
    return {
        name: value
        for name, value in numbers.items()
        if name not in _SPEEDS and not name.startswith(_SHARE)
    }


def process_began() -> float:
    """Return the `time.monotonic()` of this process's start; of this module's import, where the
    system does not tell."""
    try:
        # 'PID (NAME) STATE ...': the 22nd word is the start, in ticks since the machine's.
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return _IMPORTED
    return min(_IMPORTED, time.monotonic() - age) if ticks else _IMPORTED
