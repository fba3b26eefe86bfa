"""Cost of one full-size training step, per stage, phase and precision.

    python -m benchmarks.train_step [--frames=2] [--steps=3] [--size=base]

Random weights and random frames at 384 px; each row runs in a process of its own, so that its peak
memory is its own. Prints seconds to compile, median seconds of a step, the process's peak memory
and XLA's count of floating point operations.
"""

import json
import resource
import subprocess
import sys
import time

import numpy as np
from absl import app, flags

from benchmarks.full_size import full_size_step

_STAGES = flags.DEFINE_list("stages", ["avs", "avss"], "avs: 2 classes, avss: 71.")
_PHASES = flags.DEFINE_list("phases", ["phase1", "phase2", "all"], "What trains.")
_DTYPES = flags.DEFINE_list("dtypes", ["float32", "bfloat16"], "What the network computes in.")
_FRAMES = flags.DEFINE_integer("frames", 2, "Frames of a step.", 1)
_STEPS = flags.DEFINE_integer("steps", 3, "Timed steps after the first.", 1)
_SIZE = flags.DEFINE_string("size", "base", "A size of ssp_jax/models/sizes.py.")
_KIND = flags.DEFINE_enum(
    "kind", "aavs", ["aavs", "base"], "AAVS, or SSP as configs/avss.py has it."
)
_REMAT = flags.DEFINE_bool("remat", False, "Recompute layers in the backward pass.")
_KEPT = flags.DEFINE_bool("kept_features", False, "Batches hold what the encoder makes of frames.")
_ROW = flags.DEFINE_string("row", None, "One row as stage,phase,dtype, in this process.")


def measure(name: str, phase_name: str, dtype: str) -> dict[str, float]:
    """The row's numbers, for the process it runs in."""
    setup = full_size_step(
        name,
        phase_name,
        kind=_KIND.value,
        size=_SIZE.value,
        dtype=dtype,
        frames=_FRAMES.value,
        remat=_REMAT.value,
        kept_features=_KEPT.value,
    )
    state, batch, key = setup.state, setup.batch, setup.key
    start = time.perf_counter()
    compiled = setup.step.lower(state, batch, key, 0).compile()
    compile_seconds, seconds = time.perf_counter() - start, []
    for number in range(_STEPS.value + 1):
        start = time.perf_counter()
        state, scalars = compiled(state, batch, key, number)
        value = float(scalars["loss"])
        seconds.append(time.perf_counter() - start)
        if not np.isfinite(value):
            raise FloatingPointError(f"{name} {phase_name} {dtype}: the loss is {value}")
    return {
        "compile": compile_seconds,
        "step": float(np.median(seconds[1:])),
        "gflop": compiled.cost_analysis()["flops"] / 1e9,
        "gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "loss": value,
    }


def main(argv):
    """Prints the table, a row as soon as it is done."""
    if _ROW.value:
        print(json.dumps(measure(*_ROW.value.split(","))))
        return
    frames = _FRAMES.value
    print(f"{_SIZE.value}, {frames} frames of 384 px a step{', remat' if _REMAT.value else ''}")
    print("| stage | trains | computes in | compile, s | step, s | peak GB | GFLOP a frame |")
    print("|---|---|---|---|---|---|---|")
    for stage in _STAGES.value:
        for phase in _PHASES.value:
            for dtype in _DTYPES.value:
                command = [sys.executable, "-m", "benchmarks.train_step", *argv[1:]]
                command += [f"--row={stage},{phase},{dtype}", f"--frames={frames}"]
                command += [f"--steps={_STEPS.value}", f"--size={_SIZE.value}"]
                command += [f"--remat={_REMAT.value}", f"--kind={_KIND.value}"]
                command += [f"--kept_features={_KEPT.value}"]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    print(f"| {stage} | {phase} | {dtype} | failed: {done.stderr[-300:]!r} |")
                    continue
                row = json.loads(done.stdout.splitlines()[-1])
                cells = f"{row['compile']:.0f} | {row['step']:.1f} | {row['gb']:.1f}"
                flops = row["gflop"] / frames
                print(f"| {stage} | {phase} | {dtype} | {cells} | {flops:.0f} |", flush=True)


if __name__ == "__main__":
    app.run(main)
