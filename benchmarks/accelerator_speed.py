"""The machine, and what a full-size step and prediction take on it, by size of the batch."""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator_report import Findings
from benchmarks.accelerator_setting import TINY, TINY_FRAME_SIZE, Setting, computed_on
from benchmarks.full_size import FRAME_SIZE, full_size_predict, full_size_step
from ssp_jax.devices import device_line, peak_flops
from ssp_jax.flops import step_flops
from ssp_jax.goodput import Speed
from ssp_jax.run_facts import code_version
from ssp_jax.sharding import make_mesh, put_batch, replicated

# Frames a device, the most telling first, as the time may end: one that fills a large device, one
# alone, one that may not fit.
_PROGRAMS = (
    *((what, "bfloat16", n) for n in (8, 1, 12, 2, 4) for what in ("step", "prediction")),
    *((what, "float32", 8) for what in ("step", "prediction")),
)
_TINY_PROGRAMS = (("step", "float32", 1), ("prediction", "float32", 1))
_TIMED_SECONDS, _TIMED_CALLS = 3.0, 20
_PACKAGES = re.compile(r"jax.*|libtpu.*|flax|optax|orbax-checkpoint|numpy")
_VARIABLES = re.compile(r"JAX_(?!COMPILATION_CACHE_DIR).*|XLA_.*|LIBTPU_.*|TPU_.*|CUDA_VISIBLE_.*")


def machine(found: Findings, setting: Setting) -> None:
    """Part: say what is here."""
    device = setting.device
    there = device.platform != "cpu"
    found.fact(devices=device_line(), accelerator=there)
    found.row({"": "devices", "what": device_line()})
    found.row({"": "code", "what": f"ssp-jax {code_version()}"})
    found.row({"": "system", "what": f"{platform.platform()}, Python {platform.python_version()}"})
    found.row({"": "CPU cores", "what": os.cpu_count()})
    if limit := (device.memory_stats() or {}).get("bytes_limit"):
        found.row({"": "memory that JAX takes of a device", "what": f"{limit / 1e9:.1f} GB"})
    runtime = " ".join(getattr(device.client, "platform_version", "").split())
    found.row({"": "runtime", "what": runtime or "not told"})
    found.row({"": "driver", "what": _driver()})
    found.row({"": "packages", "what": ", ".join(_packages())})
    variables = [f"{k}={v}" for k, v in sorted(os.environ.items()) if _VARIABLES.fullmatch(k)]
    found.row({"": "variables", "what": ", ".join(variables) or "none"})
    if there or not setting.tiny:
        found.check(
            "accelerators that JAX sees", jax.device_count() if there else 0, 1, at_least=True
        )
    if not there:
        found.note("No accelerator: JAX sees the CPU alone, so nothing here tells of a GPU or TPU.")
    if peak_flops(device.device_kind) is None:
        found.note(f"The peak of {device.device_kind!r} is not known (ssp_jax/devices.py): no MFU.")
    ours, reference = (computed_on(one, jnp.matmul, *_WHOLE) for one in (device, setting.cpu))
    found.check("a product of whole numbers differs by", np.abs(ours - reference).max(), 0)


# So small that they and their sums are the same in every precision.
_WHOLE = np.arange(64, dtype=np.float32).reshape(2, 8, 4) % 3, np.ones((4, 8), np.float32)


def _driver() -> str:
    if not shutil.which("nvidia-smi"):
        return "no nvidia-smi"
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=20)
    return "; ".join((done.stdout or done.stderr).split("\n")).strip("; ")


def _packages() -> list[str]:
    names = {x.metadata["Name"]: x.version for x in importlib.metadata.distributions()}
    return [f"{k} {v}" for k, v in sorted(names.items()) if _PACKAGES.fullmatch(k or "")]


def speed(found: Findings, setting: Setting) -> None:
    """Part: time programs, as many as there is time for."""
    too_many: dict[tuple[str, str], int] = {}
    took: dict[str, float] = {}
    for what, dtype, frames in _TINY_PROGRAMS if setting.tiny else _PROGRAMS:
        title = f"{what}, {dtype}, {frames} frames a device"
        if frames >= too_many.get((what, dtype), frames + 1):
            found.note(f"{title}: not run, as fewer have no room")
            continue
        # Compilation takes most of it, and about as long for another size of the batch.
        if setting.seconds_left < 1.3 * took.get(what, 0.0) + 5:
            found.note(f"{title}: not run, its time was over")
            continue
        start = time.monotonic()
        try:
            _measure(found, setting, what, dtype, frames, title)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            too_many[what, dtype] = min(frames, too_many.get((what, dtype), frames))
            found.note(f"{title}: no room in the device's memory")
        took[what] = max(took.get(what, 0.0), time.monotonic() - start)


def _measure(
    found: Findings, setting: Setting, what: str, dtype: str, frames: int, title: str
) -> None:
    """Compile and time a program; a row of the table, and checks."""
    peak_before = _peak_bytes(setting.device)
    jitted, arguments, call = _program(setting, what, dtype, frames * jax.device_count())
    start = time.perf_counter()
    traced = jitted.trace(*arguments)
    lowered = traced.lower()
    traced_seconds = time.perf_counter() - start
    compiled = lowered.compile()
    compile_seconds = time.perf_counter() - start - traced_seconds
    values, seconds = call(compiled), []
    while len(seconds) < 2 or (sum(seconds) < _TIMED_SECONDS and len(seconds) < _TIMED_CALLS):
        start = time.perf_counter()
        values = call(compiled)
        seconds.append(time.perf_counter() - start)
    median = float(np.median(seconds))
    speeds = Speed(step_flops(traced, compiled)).at(1 / median)
    memory = compiled.memory_analysis()
    size = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    size += memory.output_size_in_bytes - memory.alias_size_in_bytes
    peak = _peak_bytes(setting.device)
    found.row(
        {
            "program": what,
            "computes in": dtype,
            "frames a device": frames,
            "ms": f"{1e3 * median:.1f}",
            "frames/s, all devices": f"{frames * jax.device_count() / median:.1f}",
            "TFLOP/s a device": f"{speeds['tflops']:.3g}" if "tflops" in speeds else "not counted",
            "MFU": f"{100 * speeds['mfu']:.1f} %" if "mfu" in speeds else "peak not known",
            "GB by the compiler": f"{size / 1e9:.2f}",
            # The runtime tells the most since the process began: only what raised it is this one's.
            "peak GB in use": f"{peak / 1e9:.2f}" if peak > peak_before else "",
            "trace, s": f"{traced_seconds:.0f}",
            "compile, s": f"{compile_seconds:.0f}",
        }
    )
    wrong = sum(int((~np.isfinite(np.asarray(x))).sum()) for x in jax.tree.leaves(values))
    found.check(f"{title}: values that are not finite", wrong, 0)
    if "mfu" in speeds:
        # More than the peak would mean that time or FLOPs are counted wrongly.
        found.check(f"{title}: share of the peak", speeds["mfu"], 1)


def _program(setting: Setting, what: str, dtype: str, frames: int) -> tuple[Any, tuple, Callable]:
    """The jitted function, what to trace it with, and compiled -> its values, once computed."""
    size = {"overrides": TINY, "frame_size": TINY_FRAME_SIZE} if setting.tiny else {}
    size = {"frame_size": FRAME_SIZE} | size | {"dtype": dtype, "frames": frames}
    if what == "prediction":
        predict, params, batch = full_size_predict("avss", **size)
        mesh = make_mesh()
        params, batch = jax.device_put(params, replicated(mesh)), put_batch(mesh, batch)
        return predict, (params, batch), lambda run: jax.block_until_ready(run(params, batch))
    setup = full_size_step("avss", "phase2", **size)
    state, number = setup.state, 0

    def call(run):
        nonlocal state, number
        state, scalars = run(state, setup.batch, setup.key, number)
        number += 1
        return jax.block_until_ready((state, scalars))[1]["loss"]

    return setup.step, (state, setup.batch, setup.key, 0), call


def _peak_bytes(device: jax.Device) -> int:
    return (device.memory_stats() or {}).get("peak_bytes_in_use", 0)
