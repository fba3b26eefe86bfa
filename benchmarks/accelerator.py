"""The check for the day on which a TPU or GPU is at hand: does all run there, and is it right?

    python -m benchmarks.accelerator [--report=FILE.md] [--minutes=12] [--parts=numbers,speed]
    python -m benchmarks.accelerator --tiny     # small networks, to try the command on a CPU

Runs its parts one after the other, each in a process of its own: the machine; a network's numbers
and the formulas of this platform, against the CPU's in the same run; time by size of the batch; 200
steps of the demo, their export, and the same stopped in the middle. The report, Markdown to be
pasted into an issue, is written anew whenever something is known, so that a part that crashes or
takes too long loses nothing, and the others still run. docs/performance.md says what is checked,
and why within which limits. Exit status 0 only if all that ran passed.
"""

import dataclasses
import os
import pkgutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from absl import app, flags

from benchmarks.accelerator_report import (
    DONE,
    FAILED,
    NOT_RUN,
    RUNNING,
    Findings,
    NotRun,
    PartResult,
    read_findings,
    render,
    verdict,
)
from ssp_jax.files import write_whole
from ssp_jax.places import define_path


@dataclasses.dataclass(frozen=True)
class Part:
    """A part's title, its share of the time, and 'module:function', imported where it runs."""

    title: str
    share: float
    function: str


# Shares are seconds of the default time. What one part does not need the later ones have.
PARTS = {
    "machine": Part("Machine", 20, "benchmarks.accelerator_speed:machine"),
    "numbers": Part("Numbers as on the CPU", 180, "benchmarks.accelerator_numbers:numbers"),
    "kernels": Part("Formulas of this platform", 70, "benchmarks.accelerator_kernels:kernels"),
    "speed": Part("Time by size of the batch", 180, "benchmarks.accelerator_speed:speed"),
    "training": Part("Training by the command", 140, "benchmarks.accelerator_runs:training"),
    "export": Part("Export and reload", 50, "benchmarks.accelerator_runs:export"),
    "stopping": Part("Stopped and gone on", 80, "benchmarks.accelerator_runs:stopping"),
}
_TRAINS = ("training", "export", "stopping")
_REPORT = define_path("report", "accelerator.md", "Markdown file, written anew as results come.")
_PARTS = flags.DEFINE_list("parts", list(PARTS), f"Such of {', '.join(PARTS)}; the first always.")
_MINUTES = flags.DEFINE_float("minutes", 12.0, "Of all parts together.", 0.1)
_TINY = flags.DEFINE_bool("tiny", False, "Small networks and few steps, also on a CPU.")
_PART = flags.DEFINE_string("part", None, "Run this one, in this process.")
_FOLDER = flags.DEFINE_string("inside", None, "Of --part: what parts share.")
_SECONDS = flags.DEFINE_float("seconds", None, "Of --part: until it is stopped.")
flags.register_validator(
    "parts", lambda names: set(names) <= PARTS.keys(), f"expected such of {', '.join(PARTS)}"
)
_ROOT = Path(__file__).parent.parent
_PATIENCE = 10.0  # seconds that a part has to end its own processes
_LOG_LINES = 25


def command(name: str, folder: Path, seconds: float) -> list[str]:
    """Return what runs a part in a process of its own."""
    words = [f"--part={name}", f"--inside={folder}", f"--seconds={seconds}"]
    return [sys.executable, "-m", "benchmarks.accelerator", *words, f"--tiny={_TINY.value}"]


def environment(given: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return the variables of all parts: one compile cache, and the CPU beside the device."""
    changed = dict(given)
    platforms = changed.get("JAX_PLATFORMS", "")
    if platforms and "cpu" not in platforms.split(","):
        changed["JAX_PLATFORMS"] = f"{platforms},cpu"
    changed.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
    return changed


def run_part(name: str, folder: Path, seconds: float) -> Iterator[PartResult]:
    """Run a part; what is known of it, whenever that is more, and last how it ended."""
    path, log = folder / f"{name}.jsonl", folder / f"{name}.log"
    result, start = PartResult(PARTS[name].title, RUNNING), time.monotonic()
    yield result
    with log.open("w") as output:
        process = subprocess.Popen(
            command(name, folder, seconds),
            cwd=_ROOT,
            env=environment(os.environ, folder),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while process.poll() is None and time.monotonic() - start < seconds:
            time.sleep(0.2)
            if len(found := read_findings(path)) > len(result.found):
                result.found = found
                yield result
        in_time = process.poll() is not None
    finally:
        _end(process)
    result.seconds = time.monotonic() - start
    result.found = read_findings(path)
    why = next((line["not_run"] for line in result.found if "not_run" in line), None)
    result.state, result.why = (NOT_RUN, why) if why else (DONE, "")
    if not in_time:
        result.state, result.why = FAILED, f"not at its end after {seconds:.0f} s"
    elif process.returncode:
        error = result.facts().get("error", f"exit status {process.returncode}")
        result.state, result.why = FAILED, error
    if result.failed:
        result.log = "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
    yield result


def _end(process: subprocess.Popen) -> None:
    """End a process, which ends those that it started; with force where it does not listen."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _in_this_process(name: str) -> None:
    """Run a part, for `run_part` of another process."""
    folder = Path(_FOLDER.value)
    found = Findings(folder / f"{name}.jsonl")
    ends = time.monotonic() + _SECONDS.value
    function = pkgutil.resolve_name(PARTS[name].function)
    setting = pkgutil.resolve_name("benchmarks.accelerator_setting:Setting")
    try:
        function(found, setting(_TINY.value, folder, ends))
    except NotRun as reason:
        found.not_run(str(reason))
    except Exception as error:
        said = " ".join(str(error).split())
        found.fact(error=f"{type(error).__name__}: {said[:300]}")
        raise


def check(names: list[str], report: Path, folder: Path) -> list[PartResult]:
    """Run these parts, writing the report all the while."""
    begin = time.monotonic()
    results = {name: PartResult(PARTS[name].title) for name in PARTS}
    for name in PARTS.keys() - set(names):
        results[name].state, results[name].why = NOT_RUN, "not asked for"

    def write() -> None:
        devices = results["machine"].facts().get("devices", "")
        tiny = "Small networks (`--tiny`): it shows that the check runs, nothing about speed."
        lines = [devices] * bool(devices) + [tiny] * _TINY.value
        write_whole(report, render(list(results.values()), lines))

    generating = _generate(folder) if set(names) & set(_TRAINS) and not _TINY.value else None
    try:
        for number, name in enumerate(names):
            if not (_TINY.value or results["machine"].facts().get("accelerator", True)):
                results[name].state, results[name].why = NOT_RUN, "there is no accelerator"
                write()
                continue
            left = 60 * _MINUTES.value - (time.monotonic() - begin)
            shares = [PARTS[later].share for later in names[number:]]
            seconds = left * shares[0] / sum(shares)
            if name in _TRAINS and generating is not None:
                seconds -= _wait(generating, seconds)
            for result in run_part(name, folder, max(seconds, 1.0)):
                results[name] = result
                write()
            print(f"{result.title}: {result.verdict} {result.why}", flush=True)
    finally:
        if generating is not None:
            _end(generating)
    return list(results.values())


def _generate(folder: Path) -> subprocess.Popen:
    """Generate the demo's clips beside the first parts: a core is busy with it for minutes."""
    words = ["--benchmark=builtin", f"--prepared_dir={folder / 'prepared'}", "--frame_size=96"]
    with (folder / "generating.log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tfds_builders.prepare", *words],
            cwd=_ROOT,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait(process: subprocess.Popen, seconds: float) -> float:
    """Until it has ended; how long that took. What failed or is late the training does itself."""
    start = time.monotonic()
    try:
        process.wait(seconds / 2)
    except subprocess.TimeoutExpired:
        _end(process)
    return time.monotonic() - start


def main(argv):
    """Prints each part's verdict, and that of all."""
    del argv
    # By way of all `finally`, which end what was started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to leave"))
    if _PART.value:
        _in_this_process(_PART.value)
        return
    report = Path(_REPORT.value)
    names = [name for name in PARTS if name == "machine" or name in _PARTS.value]
    with tempfile.TemporaryDirectory(prefix="ssp_jax_accelerator_") as folder:
        results = check(names, report, Path(folder))
    print(f"{verdict(results)}; report: {report}")
    sys.exit(any(result.failed for result in results))


if __name__ == "__main__":
    app.run(main)
