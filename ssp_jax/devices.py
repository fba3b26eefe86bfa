"""The devices that JAX shows: their names for people, and threads for those of a CPU."""

import os
import re
from collections import Counter

import jax

# FLOP/s of a device in dense products of bfloat16, by JAX's `device_kind`, as the makers say: the
# pages of each version at cloud.google.com/tpu/docs (of a chip), NVIDIA's datasheets.
_PEAKS = {
    **dict.fromkeys(["TPU v4"], 275e12),
    **dict.fromkeys(["TPU v5 lite", "TPU v5e"], 197e12),
    **dict.fromkeys(["TPU v5", "TPU v5p"], 459e12),
    **dict.fromkeys(["TPU v6 lite", "TPU v6e"], 918e12),
    **dict.fromkeys(["NVIDIA A100-SXM4-40GB", "NVIDIA A100-SXM4-80GB"], 312e12),
    **dict.fromkeys(["NVIDIA A100-PCIE-40GB", "NVIDIA A100 80GB PCIe"], 312e12),
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
}
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


def peak_flops(device_kind: str) -> float | None:
    """Return the most FLOP/s of dense bfloat16 products; None of a device that is not known."""
    return _PEAKS.get(device_kind)


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
