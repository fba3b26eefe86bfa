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
import logging
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path

from absl import app, flags
from absl import logging as absl_logging

from benchmarks.fuzz_cases import FAILED, PASSED, Outcome, make, run_case
from benchmarks.fuzz_targets import TARGETS

_CASES = flags.DEFINE_integer("cases", 200, "Of each target.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the first case.")
_ONLY = flags.DEFINE_list("only", [], "Names of targets; default all.")
_LIMIT = flags.DEFINE_float("limit", 60, "Seconds a case may take.")
_SHOW = flags.DEFINE_bool("show", False, "Print every case, not only failures.")


def _serve(connection) -> None:
    """Runs cases in a process of its own."""
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.disable(logging.CRITICAL)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # of libraries' threads
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
                    said = (
                        outcome.said
                        if len(outcome.said) < 400
                        else (f"{outcome.said[:200]} ... {outcome.said[-200:]}")
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
