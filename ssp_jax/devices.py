"""The devices that JAX shows: their names for people, and threads for those of a CPU."""

import os
import re
from collections import Counter

import jax

_THREADS = 8  # a device
_XLA_COUNT = re.compile(r"--xla_force_host_platform_device_count=(\d+)")


def device_line() -> str:
    """Return what computes: 'jax 0.10.2 on 8 x NVIDIA H100 80GB HBM3 (gpu), in 2 processes'."""
    line = f"jax {jax.__version__} on {device_kinds()}"
    return f"{line}, in {jax.process_count()} processes" if jax.process_count() > 1 else line


def device_kinds() -> str:
    """Return number and kind of all devices of the run, and their platform: '1 x cpu'.

    The call makes the devices where nobody has yet.
    """
    add_threads()
    counts, platform = Counter(d.device_kind for d in jax.devices()), jax.default_backend()
    kinds = ", ".join(f"{count} x {kind}" for kind, count in counts.items())
    return kinds if platform in counts else f"{kinds} ({platform})"


def add_threads() -> None:
    """Let XLA have threads enough for several devices of a CPU; call it before they are made.

    It has one for each. Collectives that need not wait for each other block several of one device,
    and where all are blocked XLA ends the process after a minute. (That dispatch is synchronous,
    `jax_cpu_enable_async_dispatch`, changes nothing for programs of several devices.)
    """
    given = max(map(int, _XLA_COUNT.findall(os.environ.get("XLA_FLAGS", ""))), default=1)
    count = jax.config.jax_num_cpu_devices
    count = given if count < 0 else count
    if count > 1:
        os.environ.setdefault("PJRT_NPROC", str(_THREADS * count))
