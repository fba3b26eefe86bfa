"""Datasheets of the accelerators that programs are compiled and costs are reckoned for."""

import dataclasses

from ssp_jax.devices import peak_flops


@dataclasses.dataclass(frozen=True)
class Peaks:
    """What one device can do at best.

    Attributes:
      flops: dense bfloat16 FLOP/s. bytes: bytes/s of its memory.
      clock: of a TPU, cycles/s; those of its matrix units that make up `flops`. 0: not needed.
      float32: how much of `flops` a product of float32 has at JAX's default precision.
    """

    flops: float
    bytes: float
    clock: float = 0.0
    float32: float = 1.0


# Bandwidths as `peak_flops` says the rest: the makers' pages. Clock: v5e has 4 matrix units
# of 128 x 128, v6e 4 of 256 x 256, v5p 8 of 128 x 128, two FLOPs a cycle and place. float32 at the
# default precision is one bfloat16 pass on a TPU and TF32 on a GPU.
PEAKS = {
    "v5e": Peaks(peak_flops("TPU v5e"), 0.819e12, 1.5e9),
    "v6e": Peaks(peak_flops("TPU v6e"), 1.64e12, 1.75e9),
    "v5p": Peaks(peak_flops("TPU v5p"), 2.765e12, 1.75e9),
    "h100": Peaks(peak_flops("NVIDIA H100 80GB HBM3"), 3.35e12, float32=0.5),
    "h200": Peaks(peak_flops("NVIDIA H200"), 4.8e12, float32=0.5),
}
