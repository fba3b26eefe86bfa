"""Whatever stops a run, the next start begins where the stopped one said that it is saved.

Each start is a process of its own, and what is looked at is the step that the next one begins with.
"""

import json
import os
import random
import re
import signal
import time

import numpy as np
import pytest

from ssp_jax.checkpoints import read_newest
from tests.fork_server import ForkServer
from tests.stopped_run import STAGES
from tests.test_processes import _free_port as free_port

SLOW = os.environ.get("SSP_JAX_SLOW") == "1"
# What the run begins -> seconds that this takes, about.
MOMENTS = {
    "building data": 0.5,
    "between stages": 0.1,
    "compiling": 0.6,
    "step": 0.06,
    "evaluating": 0.25,
    "saving": 0.1,
    "scoring": 0.2,
}
SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")


@pytest.fixture(scope="module")
def server():
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "JAX_ENABLE_COMPILATION_CACHE": "0"}
    with ForkServer("tests.stopped_run", environment) as server:
        yield server


class Runs:
    """Starts of one run, in one or two processes."""

    def __init__(self, server, folder, processes):
        self.server, self.folder, self.processes = server, folder, processes
        folder.mkdir()
        self.starts = 0

    def start(self):
        """Numbers of the processes; their words go into logs of their own."""
        self.starts += 1
        self.logs = [self.folder / f"log{self.starts}.{n}" for n in range(self.processes)]
        for log in self.logs:
            log.touch()
        port = free_port()
        several = [(number, port) for number in range(2)] if self.processes == 2 else [()]
        return [
            self.server.start(log, self.folder, *arguments)
            for log, arguments in zip(self.logs, several, strict=True)
        ]

    def stop_at(self, moment, nth, name, delay, which=0):
        """Start, and send the signal to process `which` so long after the nth beginning.

        Returns:
          Exit statuses and the log of the first process.
        """
        running, log = self.start(), self.logs[0]
        sign = r"avss? step \d+/" if moment == "step" else f"begins {moment}"
        while len(re.findall(sign, log.read_text())) < nth:
            if self.server.poll(running[0]) is not None:
                break
            time.sleep(0.002)
        time.sleep(delay)
        if self.server.poll(running[which]) is None:
            os.kill(running[which], getattr(signal, name))
        return [self.server.wait(process) for process in running], log.read_text()

    def finish(self):
        statuses = [self.server.wait(process) for process in self.start()]
        assert statuses == [0] * self.processes, self.logs[0].read_text()
        return self.logs[0].read_text()

    def parameters(self):
        return {name: read_newest(self.folder / name / "checkpoints", "last") for name in STAGES}

    def logged(self):
        """Every step of every stage that metrics.jsonl has."""
        paths = {name: self.folder / name / "metrics.jsonl" for name in STAGES}
        lines = {
            name: [json.loads(line) for line in path.read_text().splitlines()]
            for name, path in paths.items()
        }
        return {name: [x["step"] for x in found if "loss" in x] for name, found in lines.items()}


@pytest.fixture(scope="module")
def undisturbed(server, tmp_path_factory):
    runs = Runs(server, tmp_path_factory.mktemp("undisturbed") / "run", 1)
    runs.finish()
    return runs


def begun(log):
    """Stage -> step that it began with."""
    return {name: int(step) for name, step in re.findall(r"(\w+): from step (\d+)", log)}


def steps_done(log):
    """Stage -> last step that the log has."""
    return {name: int(step) for name, step in re.findall(r" (avss?) step (\d+)/", log)}


def said(log):
    """(stage, step) that is said to be saved, or None."""
    found = re.search(r"stopped by SIG\w+; (\w+) is saved at step (\d+); the same command", log)
    return found and (found[1], int(found[2]))


def check(statuses, log, name, following):
    """The stopped process said so, with its status, and the log of the next start agrees."""
    if set(statuses) == {0}:
        assert "came to the end" in log
        return 0
    expected = 130 if name == "SIGINT" else 75
    assert statuses[0] in (expected, 75), log
    assert "Traceback" not in log
    assert "cannot schedule" not in log
    assert len(re.findall("stopped by SIG", log)) == 1, log
    lost = 0
    for stage, step in steps_done(log).items():
        first = begun(following).get(stage)
        if first is not None:
            lost += max(step - first, 0)
    if saved := said(log):
        assert begun(following)[saved[0]] == saved[1], (log, following)
    return lost


def chain(server, folder, name, processes, moments, rng):
    """Stop one start after the other, each at another moment; steps lost in all."""
    runs, stopped, lost = Runs(server, folder, processes), [], 0
    for moment in moments:
        nth = rng.randint(1, 20) if moment == "step" else rng.randint(1, 2)
        if moment in ("building data", "compiling", "scoring"):
            nth = 1
        delay, which = rng.uniform(0, MOMENTS[moment]), rng.randrange(processes)
        statuses, log = runs.stop_at(moment, nth, name, delay, which)
        stopped.append((statuses, log))
        if "came to the end" in log:  # came to its end before
            break
    following = [log for _, log in stopped[1:]] + [runs.finish()]
    for (statuses, log), after in zip(stopped, following, strict=True):
        lost += check(statuses, log, name, after)
    return runs, lost


@pytest.mark.parametrize(
    ("name", "processes"),
    [(name, n) for name in SIGNALS for n in (1, 2) if SLOW or n == 1 or name == "SIGUSR1"],
)
def test_no_step_is_lost_to_a_signal(server, undisturbed, tmp_path, name, processes):
    rng = random.Random(f"{name} {processes}")
    moments = ["building data", "step", "evaluating"]
    if name == "SIGTERM" and processes == 1:
        moments = list(MOMENTS)
    if SLOW:
        moments = [moment for moment in MOMENTS for _ in range(3)][:20]
    runs, lost = chain(server, tmp_path / "run", name, processes, moments, rng)
    assert lost == 0
    for stage, steps in runs.logged().items():
        assert steps == list(range(1, len(steps) + 1)), stage  # each once
    for stage, arrays in runs.parameters().items():
        for key, array in undisturbed.parameters()[stage].items():
            np.testing.assert_allclose(arrays[key], array, rtol=1e-5 if processes > 1 else 0)


def test_a_second_ctrl_c_leaves_at_once(server, tmp_path):
    runs = Runs(server, tmp_path / "run", 1)
    (process,) = runs.start()
    while "step 12/" not in runs.logs[0].read_text():
        time.sleep(0.002)
    os.kill(process, signal.SIGSTOP)  # so that both come before it can answer the first
    for _ in range(2):
        os.kill(process, signal.SIGINT)
        os.kill(process, signal.SIGCONT)
        time.sleep(0.001)
    assert runs.server.wait(process) == 130
    assert re.search("left at once|is saved at step", runs.logs[0].read_text())
    runs.finish()
