"""What a command says first, what it lets JAX say, and what it says before it waits for others."""

import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import jax
import pytest

from ssp_jax.devices import add_threads, device_kinds

ROOT = Path(__file__).parent.parent
# What would decide on the devices, or on what JAX says.
_SET = ("JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES", "XLA_FLAGS", "JAX_LOGGING_LEVEL")

# A command whose work is a line of each package and two compilations, where an accelerator of this
# kind seems to be there.
_COMMAND = """
import logging, os, sys
import jax, jax.numpy as jnp
from absl import logging as absl_logging
from jax._src import hardware_utils
name, seems, *sys.argv[1:] = sys.argv[1:]
hardware_utils.has_visible_nvidia_gpu = lambda: seems == "nvidia"
hardware_utils.num_available_tpu_chips_and_device_id = lambda: (int(seems == "tpu"), None)

def work(*_, **__):
    absl_logging.warning("chatter of absl")
    logging.getLogger("orbax.checkpoint").warning("chatter of orbax")
    if name == "export":
        print("threads:", len(os.listdir("/proc/self/task")), file=sys.stderr)
    double = jax.jit(lambda x: 2 * x)
    double(jnp.ones(3)), double(jnp.ones(4))
    sys.exit(0)

if name == "main":
    from ssp_jax import main as command
    command.run, start = work, command.cli
else:
    from ssp_jax import export as command
    command.export_run, start = work, command.main
start()
"""


def _says(name, seems, *arguments, **variables):
    """Standard error of such a command, started as from a terminal where nothing is set."""
    done = subprocess.run(
        [sys.executable, "-c", _COMMAND, name, seems, *map(str, arguments)],
        cwd=ROOT,
        env={name: os.environ[name] for name in os.environ if name not in _SET} | variables,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    if " x cpu" not in done.stderr:
        pytest.skip("an accelerator is here, and JAX has no need to warn")
    assert "chatter" not in done.stderr
    return done.stderr


def test_a_run_begins_with_what_computes_what_it_does_and_where(tmp_path):
    arguments = ["--config=configs/demo.py", f"--workdir={tmp_path / 'run'}"]
    lines = _says("main", "nothing", *arguments).splitlines()
    assert [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in lines] == [
        f"jax {jax.__version__} on 1 x cpu",
        "configs/demo.py: train avs from scratch, then avss from avs",
        f"in {tmp_path / 'run'}, anew",
    ]


def test_an_idle_gpu_and_compilations_are_told_where_they_are_asked_for(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({}))
    asked = {"JAX_LOG_COMPILES": "1", "JAX_EXPLAIN_CACHE_MISSES": "1", "JAX_NUM_CPU_DEVICES": "2"}
    arguments = ["--config=configs/demo.py", "--config.stages=avss", f"--workdir={tmp_path}"]
    said = _says("main", "nvidia", *arguments, **asked)
    assert said.count("An NVIDIA GPU may be present on this machine") == 1
    assert said.index("Falling back to cpu") < said.index("on 2 x cpu\n")
    assert "configs/demo.py: train avss from avs\n" in said
    assert f"in {tmp_path}, going on with what is there\n" in said
    assert said.count("Finished XLA compilation of jit(<lambda>)") == 2
    assert "TRACING CACHE MISS" in said


def test_an_export_tells_of_an_idle_tpu(tmp_path):
    arguments = ["run", f"--out={tmp_path / 'out'}"]
    said = _says("export", "tpu", *arguments, JAX_NUM_CPU_DEVICES="4")
    assert said.count("A Google TPU may be present on this machine") == 1
    assert f"\njax {jax.__version__} on 4 x cpu\n" in said
    # XLA's own number would be some 20.
    assert int(said.split("threads: ")[1]) > 60


def test_accelerators_are_named_with_their_platform(monkeypatch):
    gpus = [types.SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3")] * 8
    monkeypatch.setattr(jax, "devices", lambda: gpus)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert device_kinds() == "8 x NVIDIA H100 80GB HBM3 (gpu)"


@pytest.mark.parametrize(
    ("flags", "threads"),
    [
        ("--xla_force_host_platform_device_count=4", "32"),
        ("--xla_cpu_use_fusion_emitters=false --xla_force_host_platform_device_count=1", None),
        ("", None),
    ],
)
def test_several_devices_of_a_cpu_have_threads_to_spare(monkeypatch, flags, threads):
    if jax.config.jax_num_cpu_devices > 0:
        pytest.skip("JAX_NUM_CPU_DEVICES decides")
    monkeypatch.setenv("PJRT_NPROC", "1")  # to be restored
    monkeypatch.delenv("PJRT_NPROC")
    monkeypatch.setenv("XLA_FLAGS", flags)
    add_threads()
    assert os.environ.get("PJRT_NPROC") == threads


_START = """
import sys
from ssp_jax import command_line, processes, waiting
command_line.show_own_log()
waiting._SILENT, waiting._LONGEST = 0.2, 1.0
processes.start(*eval(sys.argv[1]))
import jax
print("alone", jax.process_count())
"""


def _starts(*arguments, **variables):
    done = subprocess.run(
        [sys.executable, "-c", _START, repr(arguments)],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout.strip(), done.stderr


# What Slurm sets for one of two processes, of what JAX looks at.
_SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}


def test_one_of_two_processes_says_for_whom_it_waits_and_ends():
    status, _, said = _starts(None, None, None, **_SLURM)
    line = "process 0 of 2 (SLURM_NTASKS=2) waits for the other at localhost:61447. srun starts so "
    line += "many; for a run of this process alone add --num_processes=1"
    told, error = said.splitlines()
    assert status == 1
    assert told.endswith(f" {line}")
    assert error == f"error: not all came in 1 s: {line}"


def test_a_process_with_an_address_says_so_too():
    status, _, said = _starts("localhost:1", 3, 2)
    line = "process 2 of 3 waits for 2 others at localhost:1. Start one with each --process_id from"
    assert status == 1
    assert f" {line} 0 to 2\n" in said


def test_a_process_can_be_alone_in_a_cluster():
    assert _starts(None, 1, None, **_SLURM)[:2] == (0, "alone 1")
