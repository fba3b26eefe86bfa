"""What a part of `benchmarks.accelerator` runs with: devices, folder and time."""

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from tests.tiny_run import TINY_MODEL

# What --tiny has in place of Swin-B's numbers, for frames of so many pixels.
TINY, TINY_FRAME_SIZE = TINY_MODEL | {"window": 4}, 64


@dataclasses.dataclass(frozen=True)
class Setting:
    """Of one part, in the process that runs it.

    Attributes:
      tiny: small networks and few steps, to try the command itself on a CPU.
      folder: what parts hand on to each other: compiled programs, prepared data, a trained run.
      ends: `time.monotonic()` at which the part is stopped.
    """

    tiny: bool
    folder: Path
    ends: float

    @property
    def seconds_left(self) -> float:
        """Until the part is stopped."""
        return self.ends - time.monotonic()

    @functools.cached_property
    def device(self) -> jax.Device:
        """The accelerator's first; where there is none, the CPU."""
        return jax.local_devices()[0]

    @functools.cached_property
    def cpu(self) -> jax.Device:
        """What computes the references."""
        return jax.local_devices(backend="cpu")[0]


def computed_on(device: jax.Device, call: Callable, *inputs: Any) -> Any:
    """Return what `call` gives, as compiled for this device and on it, as host arrays."""
    with jax.default_device(device):  # for what is made within
        return jax.device_get(jax.jit(call)(*jax.device_put(inputs, device)))
