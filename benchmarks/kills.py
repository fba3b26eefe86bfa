"""End a run at any moment, run the same command: what is lost, and does it end as one left alone?

    python -m benchmarks.kills [--kills=20] [--signals=SIGKILL] [--seed=0] [--processes=1]
    python -m benchmarks.kills --kills=80 --signals=SIGTERM,SIGINT,SIGUSR1,SIGHUP

Trains tests/tiny_run.py, all of SSP in three stages, data and flow included, once undisturbed. Then
again in another folder, in processes that are ended one after the other: each when the files show
that the run has come to a moment of the list, a little later by chance, by the signals in turn. The
last one is left to its end, and its parameters, optimiser states, results, logs, masks and flows
are compared bit by bit. Prints how many steps each signal cost: those that the log had and the next
start did not begin with. A signal but SIGKILL has to be answered with its exit status, and what the
run then says to be saved has to be what the next start begins with.
"""

import dataclasses
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from absl import app, flags
from array_record.python.array_record_module import ArrayRecordReader

from ssp_jax.checkpoints import read_newest
from ssp_jax.command_line import show_own_log
from ssp_jax.goodput import without_times
from ssp_jax.places import define_path
from ssp_jax.preemption import EXIT_STATUS, INTERRUPTED_STATUS

_KILLS = flags.DEFINE_integer("kills", 20, "How often.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the moments and delays.")
_SIGNALS = flags.DEFINE_list("signals", ["SIGKILL"], "Sent in turn.")
_PROCESSES = flags.DEFINE_integer("processes", 1, "Of the run, on this machine.", 1)
_FOLDER = define_path("folder", None, "An empty one, kept; default a temporary one.")

ROOT = Path(__file__).parent.parent
_START = "---- start ----\n"


class Run:
    """A command with its folders."""

    def __init__(
        self,
        folder: Path,
        *,
        config: str = "",
        arguments: Sequence[str] = (),
        workdir: Path | None = None,
        prepared: Path | None = None,
        processes: int = 1,
    ):
        """`workdir` is of checkpoints, logs and results, `prepared` of data, flow and masks; both
        are below `folder`, if not given."""
        self.folder, self.config, self.arguments = folder, config, arguments
        self.workdir, self.prepared = workdir or folder / "run", prepared or folder / "prepared"
        self.processes = processes
        self._running: list[subprocess.Popen] = []

    def start(self) -> list[subprocess.Popen]:
        """The command in its processes, the words of the first in `log`, after a line _START."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [
            *(sys.executable, "-m", "ssp_jax.main", f"--config={self.config}"),
            *(f"--workdir={self.workdir}", f"--config.prepared_dir={self.prepared}"),
            *self.arguments,
        ]
        with (self.folder / "log").open("a") as log:
            log.write(_START)
        self._running = running = []
        port = _free_port()
        for number in range(self.processes):
            several = [f"--coordinator=localhost:{port}", f"--num_processes={self.processes}"]
            several = [*several, f"--process_id={number}"] if self.processes > 1 else []
            with (self.folder / f"log{number or ''}").open("a") as log:
                output = {"stdout": log, "stderr": subprocess.STDOUT}
                running.append(
                    subprocess.Popen(
                        [*command, *several], cwd=ROOT, start_new_session=True, **output
                    )
                )
        return running

    def finish(self) -> None:
        """Run to the end.

        Raises:
          RuntimeError: it did not come there.
        """
        if any(statuses := [process.wait() for process in self.start()]):
            tail = (self.folder / "log").read_text()[-2000:]
            raise RuntimeError(f"{self.folder}: exit status {statuses}\n{tail}")

    def stop(self) -> None:
        """End at once what still runs."""
        for process in self._running:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as tried:
        tried.bind(("localhost", 0))
        return tried.getsockname()[1]


@dataclasses.dataclass(frozen=True)
class Moment:
    """Something a run does: when `signs` has a new element; killed up to `delay` seconds later."""

    name: str
    signs: Callable[[Run], set]
    delay: float = 0.05


def _files(pattern: str, *, below: str = "workdir") -> Callable[[Run], set]:
    def signs(run: Run) -> set:
        return {(path, _changed(path)) for path in getattr(run, below).glob(pattern)}

    return signs


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:  # renamed meanwhile
        return 0


def logged(pattern: str) -> Callable[[Run], set]:
    """Signs of a `Moment`: where the log has such words."""
    return lambda run: {m.start() for m in re.finditer(pattern, (run.folder / "log").read_text())}


def moments(stages: Sequence[str]) -> list[Moment]:
    """In the order that a run comes to them."""
    listed = [
        Moment("starting", lambda run: {time.monotonic()}, 4.0),
        Moment("preparing data", _files("*/*/*.staging/*.tmp", below="prepared"), 0.3),
        Moment("data into place", _files("*/*/incomplete.*", below="prepared")),
    ]
    for stage in stages:
        if stage == "avss":
            masks = _files("stage1_masks/*/*.tmp", below="prepared")
            listed.append(Moment("writing masks", masks, 0.1))
        if stage == "avs":
            flow = _files("*/*/*/flow-dis/*/*.tmp", below="prepared")
            listed.append(Moment("estimating flow", flow, 0.1))
        folder = f"{stage}/checkpoints"
        listed += [
            Moment(f"{stage}: compiling", _files(f"{stage}/events/*"), 4.0),
            Moment(f"{stage}: in a step", logged(rf" {stage} step (1|[35]|9|11)/"), 0.3),
            Moment(f"{stage}: evaluating", logged(rf" {stage} step ([24]/4|(6|12)/12)"), 1.0),
            Moment(f"{stage}: saving the best", _files(f"{folder}/best/*tmp*")),
            Moment(f"{stage}: saving the state", _files(f"{folder}/last/*tmp*")),
            Moment(f"{stage}: saved", _files(f"{folder}/last/[0-9]"), 0.3),
        ]
        if stage != "objects":  # which has no test set
            listed.append(Moment(f"{stage}: scoring", logged(f" {stage}: best validation"), 3.0))
    return [*listed, Moment("writing results", _files("results.json"), 0.5)]


def kill_at(
    run: Run, listed: Sequence[Moment], rng: random.Random, number: int = signal.SIGKILL
) -> int | None:
    """Start, and end it at the first of these moments that is seen, which is numbered.

    A kill ends all of its processes, another signal comes to one of them.

    Returns:
      None where the run came to its end before any.

    Raises:
      RuntimeError: it stopped by itself; a signal was answered with another exit status; it left
        a process behind.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "log").touch()
    before = [moment.signs(run) for moment in listed]
    running, seen = run.start(), None
    while running[0].poll() is None and seen is None:
        signs = (moment.signs(run) - old for moment, old in zip(listed, before, strict=True))
        seen = next((place for place, new in enumerate(signs) if new), None)
        time.sleep(0.002)
    moment = listed[seen or 0]
    time.sleep(rng.uniform(0, moment.delay))
    for process in running if number == signal.SIGKILL else [rng.choice(running)]:
        if process.poll() is None:
            process.send_signal(number)
    statuses = {process.wait() for process in running}
    allowed = {
        signal.SIGKILL: {-signal.SIGKILL},
        # Of several processes all but one hear it from JAX, as a SIGTERM.
        signal.SIGINT: {INTERRUPTED_STATUS, EXIT_STATUS},
    }
    # Before the command listens, a signal ends it as it ends any program.
    deaf = {-number} if moment.name == "starting" else set()
    if not statuses <= {0} | deaf | allowed.get(number, {EXIT_STATUS}):
        tail = (run.folder / "log").read_text()[-2000:]
        raise RuntimeError(f"{moment.name}: exit statuses {statuses}\n{tail}")
    left = [pid for process in running for pid in _left_behind(process.pid) if any(statuses)]
    if left:
        raise RuntimeError(f"{moment.name}: processes {left} were left behind")
    return seen if any(statuses) else None


def steps_lost(log: str) -> list[int]:
    """Steps that each start but the last had done and the next that came so far did again.

    Raises:
      RuntimeError: a start begins elsewhere than the one before had said to be saved.
    """
    starts, lost = log.split(_START)[1:], []
    for number, text in enumerate(starts[:-1]):
        done = {name: int(step) for name, step in re.findall(r" (\w+) step (\d+)/", text)}
        said = dict(re.findall(r"(\w+) is saved at step (\d+)", text))
        again = 0
        for stage in done.keys() | said.keys():
            begins = (_begins(later, stage) for later in starts[number + 1 :])
            # A stage that is finished begins no more.
            first = next((step for step in begins if step is not None), done.get(stage, 0))
            if stage in said and first < int(said[stage]):
                raise RuntimeError(f"{stage}: said to be saved at {said[stage]}, begins at {first}")
            again += max(done.get(stage, 0) - first, 0)
        lost.append(again)
    return lost


def _begins(text: str, stage: str) -> int | None:
    found = re.search(rf" {stage}: (?:going on|begins) at step (\d+)", text)
    return int(found[1]) if found else None


def _left_behind(session: int, patience: float = 60.0) -> list[str]:
    """Processes of the session that are still there after so many seconds."""
    deadline = time.monotonic() + patience
    while left := [n for n in os.listdir("/proc") if n.isdigit() and _is_of(int(n), session)]:
        if time.monotonic() > deadline:
            return left
        time.sleep(0.1)
    return []


def _is_of(pid: int, session: int) -> bool:
    try:
        return os.getsid(pid) == session
    except ProcessLookupError:
        return False


def differences(
    one: Run, other: Run, stages: Sequence[str], results: Sequence[str] = ()
) -> list[str]:
    """In what two finished runs differ; `results` of these test sets, or all."""
    found = []
    for stage in stages:
        for which in ("last", "best"):
            folders = (run.workdir / stage / "checkpoints" for run in (one, other))
            ours, theirs = (read_newest(folder, which) for folder in folders)
            if ours.keys() != theirs.keys():
                found.append(f"{stage}, {which}: other arrays")
            found += [
                f"{stage}, {which}: {name}"
                for name in sorted(ours.keys() & theirs.keys())
                if ours[name].tobytes() != theirs[name].tobytes()
            ]
        if _metrics(one, stage) != _metrics(other, stage):
            found.append(f"{stage}: metrics.jsonl")
    ours, theirs = (json.loads((run.workdir / "results.json").read_text()) for run in (one, other))
    names = results or ours.keys() | theirs.keys()
    found += [f"results of {name}" for name in names if ours.get(name) != theirs.get(name)]
    patterns = {
        "workdir": tuple(f"{stage}/*.png" for stage in stages),
        "prepared": ("stage1_masks/*/*.array_record", "*/*/*/flow-dis/*/*.array_record"),
    }
    for below, names in patterns.items():
        for pattern in names:
            ours, theirs = (_contents(getattr(run, below), pattern) for run in (one, other))
            differing = [n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n)]
            found += [f"{below}: {name}" for name in sorted(differing)]
    return found


def _metrics(run: Run, stage: str) -> list[dict]:
    lines = (run.workdir / stage / "metrics.jsonl").read_text().splitlines()
    return [without_times(json.loads(line)) for line in lines]


def _contents(folder: Path, pattern: str) -> dict[str, bytes | list[bytes]]:
    """Return what files hold, by name; of a shard the records.

    A store of masks is named by a hash of what they were made of, the dates of the data's files
    included, which differ where two runs prepared their own: it does not count, nor does the last
    record of a shard, which repeats that name.
    """
    found = {}
    for path in folder.glob(pattern):
        name = re.sub(r"-[0-9a-f]{8}(?=/)", "", str(path.relative_to(folder)))
        if path.suffix == ".array_record":
            found[name] = ArrayRecordReader(str(path)).read_all()[:-1]
        else:
            found[name] = path.read_bytes()
    return found


def chosen(listed: Sequence[Moment], kills: int, rng: random.Random) -> Iterator[Moment]:
    """So many moments: all of the list again and again, the last round by chance, each in order."""
    while kills > 0:
        places = sorted(rng.sample(range(len(listed)), min(kills, len(listed))))
        yield from (listed[place] for place in places)
        kills -= len(places)


def _next_ones(todo: Sequence[Moment], order: Sequence[Moment]) -> list[Moment]:
    """The next moments that one start can come to, a few: one may be too short to be seen."""
    places = [order.index(moment) for moment in todo[:4]]
    turn = next((n for n in range(1, len(places)) if places[n] <= places[n - 1]), len(places))
    return list(todo[:turn])


def main(argv):
    """Prints the tables; exit status 1 if any run ended otherwise than the undisturbed one."""
    del argv
    show_own_log()
    for name in _SIGNALS.value:
        # What `nohup` or a shell's `&` has this process ignore, the runs would ignore as well.
        if signal.getsignal(getattr(signal, name)) == signal.SIG_IGN:
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    with tempfile.TemporaryDirectory(prefix="ssp_jax_kills_") as temporary:
        folder, stages = Path(_FOLDER.value or temporary), ("objects", "avs", "avss")
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
        # Steps enough to lose some between two evaluations.
        long = [f"--config.{s}.{key}" for s in stages for key in ("steps=12", "eval_every=6")]
        made = {"config": "tests/tiny_run.py:prepared,ssp", "arguments": long}
        made["processes"] = _PROCESSES.value
        undisturbed = Run(folder / "undisturbed", **made)
        undisturbed.finish()
        rng, wrong, runs, missed, kills = random.Random(_SEED.value), [], 0, Counter(), 0
        hit: dict[str, list[tuple[str, int]]] = {name: [] for name in _SIGNALS.value}
        order = moments(stages)
        for _ in range(3):  # for those that pass unseen
            todo = list(chosen(order, _KILLS.value - kills, rng))
            while todo:
                run, ended = Run(folder / f"run{runs}", **made), []
                runs += 1
                while todo:
                    name = _SIGNALS.value[kills % len(_SIGNALS.value)]
                    watched = _next_ones(todo, order)
                    place = kill_at(run, watched, rng, getattr(signal, name))
                    missed.update(moment.name for moment in watched[:place])
                    del todo[: len(watched[:place])]
                    if place is None:
                        break
                    ended.append((name, todo.pop(0).name))
                    kills += 1
                    print(f"{kills}: {ended[-1]}", flush=True)
                run.finish()
                lost = steps_lost((run.folder / "log").read_text())
                for (name, moment), steps in zip(ended, lost, strict=False):
                    hit[name].append((moment, steps))
                found = differences(undisturbed, run, stages)
                wrong += found
                print(f"{run.folder}: {len(found)} differences {found[:5]}", flush=True)
    _print_tables(hit)
    print(f"\nnot hit: {dict(missed)}")
    print(f"{kills} kills of {runs} runs; differences from the undisturbed one: {len(wrong)}")
    sys.exit(bool(wrong))


def _print_tables(hit: dict[str, list[tuple[str, int]]]) -> None:
    print("\n| signal | times | with steps lost | steps lost | at most |\n|---|---|---|---|---|")
    for name, ends in hit.items():
        lost = [steps for _, steps in ends] or [0]
        some = sum(steps > 0 for steps in lost)
        print(f"| {name} | {len(ends)} | {some} | {sum(lost)} | {max(lost)} |")
    print(f"\n| while | {' | '.join(hit)} |\n|---|{'---|' * len(hit)}")
    counts = {name: Counter(moment for moment, _ in ends) for name, ends in hit.items()}
    for moment in dict.fromkeys(moment for ends in hit.values() for moment, _ in ends):
        print(f"| {moment} | {' | '.join(str(count[moment]) for count in counts.values())} |")


if __name__ == "__main__":
    app.run(main)
