"""`benchmarks.accelerator`: all of it in small, and that what is wrong is told."""

import re
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from benchmarks import accelerator_speed
from benchmarks.accelerator import PARTS, environment
from benchmarks.accelerator_report import (
    DONE,
    FAILED,
    RUNNING,
    Findings,
    PartResult,
    read_findings,
    render,
    verdict,
)
from benchmarks.accelerator_setting import Setting

ROOT = Path(__file__).parent.parent
# As `python -m benchmarks.accelerator`, with a change to it.
_COMMAND = """
import sys
from absl import app
from benchmarks import accelerator
{}
app.run(accelerator.main)
"""


def run(report, *arguments, change=""):
    """(exit status, report) of the command, which is given a folder of its own for the report."""
    command = [sys.executable, "-c", _COMMAND.format(change)]
    done = subprocess.run(
        [*command, f"--report={report}", "--tiny", *arguments], cwd=ROOT, check=False
    )
    return done.returncode, report.read_text()


def verdicts(report):
    """{part's title: verdict}"""
    return dict(re.findall(r"^## \d\. (.*): ([A-Z]+|not run)", report, re.MULTILINE))


def test_all_parts_come_to_their_ends_in_small(tmp_path):
    status, report = run(tmp_path / "report.md", "--minutes=60")  # however busy the machine is
    assert status == 0, report
    assert re.match(r"# Accelerator check: PASSED \((\d+) of \1 checks passed\)\n", report)
    assert verdicts(report) == {part.title: "PASSED" for part in PARTS.values()}
    assert "No accelerator" in report
    assert "| steps lost by SIGTERM | 0 | ≤ 0 | PASS |" in report
    assert "0 arrays and files differ in a bit" in report
    assert str(Path.home()) not in report


# In the process of a part: the gradients that a CPU takes are a tenth too long.
_WRONG_KERNEL = """
import dataclasses
from ssp_jax.models.deformable_sampling import SAMPLERS
right = SAMPLERS["fused"]
def wrong(*inputs):
    return tuple(1.1 * gradient for gradient in right.backward(*inputs))
SAMPLERS["fused"] = dataclasses.replace(right, backward=wrong)
"""


def test_a_wrong_kernel_is_told(tmp_path):
    change = f"""
command = accelerator.command
wrong = {_COMMAND.format(_WRONG_KERNEL)!r}
accelerator.command = lambda *given: [sys.executable, "-c", wrong, *command(*given)[3:]]
"""
    status, report = run(tmp_path / "report.md", "--parts=kernels", "--minutes=60", change=change)
    assert status == 1
    assert report.startswith("# Accelerator check: FAILED (")
    failed = re.findall(r"\| (.*?) \| (.*?) \| ≤ (.*?) \| \*\*FAIL\*\* \|", report)
    assert {name.split(": ")[-1] for name, *_ in failed} == {
        "gradient of values",
        "of places",
        "of weights",
    }
    assert all(float(value) > float(limit) for _, value, limit in failed)
    assert verdicts(report)["Machine"] == "PASSED"


def test_what_crashes_or_hangs_loses_nothing_and_the_others_run(tmp_path):
    change = """
accelerator._PATIENCE = 1.0
PART = '''
import json, subprocess, sys, time
name, folder = (word.split("=")[1] for word in sys.argv[1:3])
with open(folder + "/" + name + ".jsonl", "a") as file:
    line = dict(check=name + " began", value=0, limit=0, at_least=False, passed=True)
    print(json.dumps(line), file=file)
if name == "kernels":
    sys.exit("no such instruction")
if name == "speed":
    time.sleep(600)
'''
command = accelerator.command
accelerator.command = lambda *given: [sys.executable, "-c", PART, *command(*given)[3:]]
"""
    begin = time.monotonic()
    status, report = run(
        tmp_path / "report.md", "--parts=kernels,speed,export", "--minutes=0.3", change=change
    )
    assert time.monotonic() - begin < 60
    assert status == 1
    assert "FAILED (4 of 4 checks passed, 2 parts broke off, 3 parts not run)" in report
    assert verdicts(report) == {part.title: "not run" for part in PARTS.values()} | {
        "Machine": "PASSED",
        "Formulas of this platform": "FAILED",
        "Time by size of the batch": "FAILED",
        "Export and reload": "PASSED",
    }
    assert "failed: exit status 1" in report
    assert "no such instruction" in report
    assert "failed: not at its end after" in report


def test_without_an_accelerator_nothing_but_the_machine_is_looked_at(tmp_path):
    status, report = run(tmp_path / "report.md", "--notiny", "--parts=numbers,speed")
    assert status == 1
    assert "| accelerators that JAX sees | 0 | ≥ 1 | **FAIL** |" in report
    assert report.count("not run: there is no accelerator") == 2


def test_the_cpu_stays_beside_the_accelerator(tmp_path):
    for given, expected in (("cuda", "cuda,cpu"), ("tpu,cpu", "tpu,cpu"), ("cpu", "cpu")):
        assert environment({"JAX_PLATFORMS": given}, tmp_path)["JAX_PLATFORMS"] == expected
    made = environment({}, tmp_path)
    assert made == {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}
    given = {"JAX_COMPILATION_CACHE_DIR": "mine"}
    assert environment(given, tmp_path) == given


def test_a_report_says_how_far_it_has_come(tmp_path):
    found = Findings(tmp_path / "part.jsonl")
    found.check("near", 0.5, 1)
    found.check("many | of them", 3, 2, at_least=True)
    found.row({"a": 1, "b": 2})
    found.row({"a": 3, "c": "x|y"})
    found.note("a word")
    with (tmp_path / "part.jsonl").open("a") as file:
        file.write('{"check": "hal')  # as a reader may find it
    part = PartResult("One", RUNNING, found=read_findings(tmp_path / "part.jsonl"))
    assert verdict([part]) == "not finished (2 of 2 checks passed so far)"
    part.state = DONE
    assert render([part], ["8 x device"]).split("\n\n") == [
        "# Accelerator check: PASSED (2 of 2 checks passed)",
        "8 x device",
        "## 1. One: PASSED",
        "| check | measured | limit | |\n|---|---|---|---|\n| near | 0.5 | ≤ 1 | PASS |\n"
        "| many \\| of them | 3 | ≥ 2 | PASS |",
        "| a | b | c |\n|---|---|---|\n| 1 | 2 |  |\n| 3 |  | x\\|y |",
        "- a word\n",
    ]
    found = Findings(tmp_path / "other.jsonl")
    found.check("not a number", float("nan"), 1)
    other = PartResult("Two", DONE, found=read_findings(tmp_path / "other.jsonl"))
    assert verdict([part, other]) == "FAILED (2 of 3 checks passed)"
    assert "| not a number | nan | ≤ 1 | **FAIL** |" in render([other], [])
    broken = PartResult("Three", FAILED, "exit status -11")
    assert verdict([part, broken]) == "FAILED (2 of 2 checks passed, 1 part broke off)"


def test_batches_stop_where_the_memory_or_the_time_ends(tmp_path, monkeypatch):
    done = []

    def measure(found, setting, what, dtype, frames, title):
        done.append((what, dtype, frames))
        if what == "step" and frames >= 8:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(accelerator_speed, "_measure", measure)
    path = tmp_path / "found"
    accelerator_speed.speed(Findings(path), Setting(False, tmp_path, time.monotonic() + 60))
    notes = [line["note"] for line in read_findings(path)]
    assert "step, bfloat16, 8 frames a device: no room in the device's memory" in notes
    assert "step, bfloat16, 12 frames a device: not run, as fewer have no room" in notes
    assert ("step", "bfloat16", 12) not in done
    assert {("step", "bfloat16", 4), ("prediction", "bfloat16", 12)} <= set(done)
    done.clear()
    late = tmp_path / "late"
    accelerator_speed.speed(Findings(late), Setting(False, tmp_path, time.monotonic() + 1))
    assert not done
    assert all(line["note"].endswith("its time was over") for line in read_findings(late))

    def fails(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: no such instruction")

    monkeypatch.setattr(accelerator_speed, "_measure", fails)
    with pytest.raises(jax.errors.JaxRuntimeError, match="no such instruction"):
        accelerator_speed.speed(Findings(path), Setting(False, tmp_path, time.monotonic() + 60))
