"""How a training step's cost grows: with frames, image size, queries and devices.

    python -m benchmarks.growth [--out=benchmarks/growth.png] [--size=base] [--phase=phase2]

Every point is a step of configs/avss.py compiled for CPU devices (no array is made, nothing is
timed): FLOPs and temporaries of a device, and with several devices what they send each other in a
step, the bytes of the collectives in the compiled program. Prints the table and draws it.
"""

import json
import math
import os
import re
import subprocess
import sys

import matplotlib
from absl import app, flags

from benchmarks.full_size import described_mesh, full_size_step
from ssp_jax.places import define_path

_OUT = define_path("out", "growth.png", "The plot.")
_SIZE = flags.DEFINE_string("size", "base", "Of ssp_jax/models/sizes.py.")
_KIND = flags.DEFINE_string("kind", "aavs", "Of configs/avss.py.")
_STAGE = flags.DEFINE_string("stage", "avss", "avs or avss.")
_PHASE = flags.DEFINE_string("phase", "phase2", "What trains.")
_POINT = flags.DEFINE_string("point", None, "One point as JSON; in this process.")
# What is varied, its values, and where the others stand meanwhile.
AXES = {
    "frames": (1, 2, 4, 8),
    "frame_size": (256, 384, 512),
    "num_queries": (30, 100, 200),
    "devices": (1, 2, 4, 8),
    "fsdp": (2, 4, 8),
}
_STANDS = {"frames": 2, "frame_size": 384, "num_queries": 100, "devices": 1, "fsdp": 1}
_BYTES = {"f32": 4, "bf16": 2, "s32": 4, "u32": 4, "pred": 1, "u8": 1, "f16": 2, "s8": 1, "u64": 8}
_COLLECTIVE = re.compile(
    r"= (.+?) (?:all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")


def communicated(program: str) -> int:
    """Bytes of the results of all collectives in a compiled program's text."""
    total = 0
    for shapes in _COLLECTIVE.findall(program):
        for kind, sides in _ARRAY.findall(shapes):
            total += _BYTES.get(kind, 4) * math.prod(int(side) for side in sides.split(",") if side)
    return total


def measure(point: dict) -> dict[str, float]:
    """GFLOP, GB of temporaries and GB communicated of a device, compiled at this point."""
    devices = point["devices"] * point["fsdp"]
    mesh = described_mesh(f"cpu:{devices}", point["fsdp"])
    full = full_size_step(
        _STAGE.value,
        _PHASE.value,
        kind=_KIND.value,
        size=_SIZE.value,
        frames=point["frames"] * devices,
        frame_size=point["frame_size"],
        num_queries=point["num_queries"],
        mesh=mesh,
    )
    compiled = full.step.lower(full.state, full.batch, full.key, 0).compile()
    return {
        "GFLOP": compiled.cost_analysis()["flops"] / 1e9,
        "GB of temporaries": compiled.memory_analysis().temp_size_in_bytes / 1e9,
        "GB sent": communicated(compiled.as_text()) / 1e9,
    }


def _draw(found: dict[str, list[dict]]) -> None:
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(AXES), figsize=(3.2 * len(AXES), 3), sharey=True)
    for axis, (name, values) in zip(axes, AXES.items(), strict=True):
        for quantity in found[name][0]:
            start = found[name][0][quantity]
            if start:
                relative = [point[quantity] / start for point in found[name]]
                axis.plot(values, relative, marker="o", label=quantity)
        axis.set_xlabel(name)
        axis.set_xticks(values)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("times the first point's, per device")
    # Only the last axis has all quantities: one device sends nothing.
    axes[-1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(_OUT.value, dpi=120)


def main(argv):
    """Prints the table, a row as soon as it is done, and draws it."""
    if _POINT.value:
        print(json.dumps(measure(json.loads(_POINT.value))))
        return
    print(f"configs/avss.py:{_KIND.value}, {_STAGE.value}, {_PHASE.value}, size {_SIZE.value}\n")
    print("| | GFLOP a device | GB of temporaries | GB sent |")
    print("|---|---|---|---|")
    found, known = {}, {}
    for name, values in AXES.items():
        found[name] = []
        for value in values:
            point = json.dumps(_STANDS | {name: value})
            if point not in known:
                command = [sys.executable, "-m", "benchmarks.growth", f"--point={point}"]
                command += [
                    f"--{flag.name}={flag.value}" for flag in (_SIZE, _KIND, _STAGE, _PHASE)
                ]
                environment = os.environ | {"JAX_PLATFORMS": "cpu"}
                done = subprocess.run(
                    command, env=environment, stdout=subprocess.PIPE, text=True, check=True
                )
                known[point] = json.loads(done.stdout.splitlines()[-1])
            found[name].append(known[point])
            cells = " | ".join(f"{x:.2f}" for x in known[point].values())
            print(f"| {name} {value} | {cells} |", flush=True)
    _draw(found)
    print(f"\n{_OUT.value}")


if __name__ == "__main__":
    app.run(main)
