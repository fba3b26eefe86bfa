"""Damaged at random, is everything that is read equal, or refused in one clear message?

    python -m benchmarks.fuzz [--cases=200] [--seed=0] [--only=TARGET,TARGET] [--show]

One file of a target (see `fuzz_targets`) is damaged, and the whole is read as the project reads it.
A case is passed where what is read equals what was written, or where the error is one that is meant
for people and names the file, the folder or the clip. It fails where it takes more than `--limit`
seconds, ends in another error, ends the process, takes more than 1 GiB of memory, or where other
numbers are read. That cannot be known of formats without a checksum: such cases are counted alone.
Cases run in a process of their own, which a failure may end.
"""

import collections
import dataclasses
import hashlib
import logging
import multiprocessing
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
from absl import app, flags
from absl import logging as absl_logging

from benchmarks.fuzz_damage import damage
from benchmarks.fuzz_targets import TARGETS
from ssp_jax.errors import UserError

_CASES = flags.DEFINE_integer("cases", 200, "Of each target.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the first case.")
_ONLY = flags.DEFINE_list("only", [], "Names of targets; default all.")
_LIMIT = flags.DEFINE_float("limit", 60, "Seconds a case may take.")
_SHOW = flags.DEFINE_bool("show", False, "Print every case, not only failures.")

ROOT = Path(__file__).parent.parent
MEMORY = 1 << 30
PASSED = ("equal", "refused", "other values without a checksum")
FAILED = ("other values", "traceback", "message without a name", "too much memory", "hang", "died")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Of one case: one of PASSED and FAILED, the damage, and what was said."""

    kind: str
    damage: str
    said: str = ""


def make(name: str, folder: Path) -> str:
    """Write a target, undamaged; the digest of what is read of it."""
    TARGETS[name].make(folder)
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(folder, Path(copy) / "whole")
        return digest(TARGETS[name].read(Path(copy) / "whole"))


def run_case(name: str, whole: Path, expected: str, seed: int, folder: Path) -> Outcome:
    """Damage a copy of `whole` in the new `folder`, and read it."""
    target, rng = TARGETS[name], random.Random(f"{name} {seed}")
    shutil.copytree(whole, folder)
    files = target.files(folder)
    path = rng.choice(files)
    kind = damage(path, files, rng)
    what = f"{path.relative_to(folder)}: {kind}"
    before = _most_memory()
    try:
        found = digest(target.read(folder))
    except UserError as error:
        said = str(error)
        named = any(str(part) in said for part in (path.name, folder, "--config", "config."))
        found = "refused" if named else "message without a name"
        return Outcome(found, what, said)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also a library's panic, and SystemExit
        frame = traceback.extract_tb(error.__traceback__)[-1]
        ours = [f for f in traceback.extract_tb(error.__traceback__) if str(ROOT) in f.filename]
        places = " > ".join(f"{Path(f.filename).name}:{f.lineno}" for f in (*ours[-3:], frame))
        return Outcome("traceback", what, f"{type(error).__name__} ({error}) {places}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if _most_memory() - before > MEMORY:
        return Outcome("too much memory", what)
    if found == expected:
        return Outcome("equal", what)
    if target.unknowable(path, kind):
        return Outcome("other values without a checksum", what)
    return Outcome("other values", what)


def digest(found) -> str:
    """Of what a target's `read` returns."""
    total = hashlib.sha256()
    for name in sorted(found):
        value = found[name]
        if isinstance(value, np.ndarray):
            total.update(repr((name, value.shape, str(value.dtype))).encode() + value.tobytes())
        else:
            total.update(repr((name, value)).encode(errors="backslashreplace"))
    return total.hexdigest()


def _most_memory() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _serve(connection) -> None:
    """Runs cases in a process of its own."""
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.disable(logging.CRITICAL)
    while True:
        connection.send(run_case(*connection.recv()))


class Runner:
    """Runs cases within a time limit, in a process that is replaced when it ends."""

    def __init__(self, limit: float):
        self._limit, self._process, self._connection = limit, None, None

    def __call__(self, *case) -> Outcome:
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._connection, other = context.Pipe()
            self._process = context.Process(target=_serve, args=(other,), daemon=True)
            self._process.start()
            other.close()
            self._connection.send(case)
            limit = self._limit + 120  # for starting
        else:
            self._connection.send(case)
            limit = self._limit
        try:
            if self._connection.poll(limit):
                return self._connection.recv()
            kind = "hang"
        except EOFError:
            kind = "died"
        self.close()
        return Outcome(kind, f"seed {case[3]}")

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._process = None


def main(argv):
    """Prints failures and a table; exit status 1 if there are any."""
    del argv
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.disable(logging.CRITICAL)
    names = [name for name in TARGETS if name in _ONLY.value or not _ONLY.value]
    runner, counts = Runner(_LIMIT.value), {}
    with tempfile.TemporaryDirectory(prefix="ssp_jax_fuzz_") as temporary:
        for name in names:
            whole, start = Path(temporary) / "whole" / name.replace(" ", "_"), time.monotonic()
            expected = make(name, whole)
            counts[name], slowest = collections.Counter(), 0.0
            for seed in range(_SEED.value, _SEED.value + _CASES.value):
                began = time.monotonic()
                folder = Path(temporary) / f"case{seed}"
                outcome = runner(name, whole, expected, seed, folder)
                slowest = max(slowest, time.monotonic() - began)
                counts[name][outcome.kind] += 1
                if outcome.kind in FAILED or _SHOW.value:
                    said = outcome.said if len(outcome.said) < 400 else (
                        f"{outcome.said[:200]} ... {outcome.said[-200:]}"
                    )
                    print(f"{name}, {seed}: {outcome.kind}: {outcome.damage}: {said}", flush=True)
            seconds = time.monotonic() - start
            print(f"{name}: {dict(counts[name])}, {seconds:.0f} s, slowest {slowest:.1f} s")
    runner.close()
    kinds = (*PASSED, *FAILED)
    print(f"\n| damaged | cases | {' | '.join(kinds)} |\n|---|{'---|' * (len(kinds) + 1)}")
    for name, found in counts.items():
        numbers = " | ".join(str(found[kind]) for kind in kinds)
        print(f"| {name} | {sum(found.values())} | {numbers} |")
    sys.exit(any(found[kind] for found in counts.values() for kind in FAILED))


if __name__ == "__main__":
    app.run(main)
