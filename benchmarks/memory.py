"""Memory a device of one full-size training step, from the compiled program; no array is made.

    python -m benchmarks.memory --topology=v5e:2x4 [--frames=2]
    python -m benchmarks.memory --topology=cpu:8

The first compiles for eight TPU v5e with the TPU's own compiler, which refuses what does not fit;
it needs `pip install -e ".[aot]"`, but no TPU. The second compiles for eight CPU devices, which is
no guide to a TPU's temporaries.
Each row is compiled in a process of its own.
"""

import json
import os
import re
import subprocess
import sys
import time

import jax
from absl import app, flags

from benchmarks.full_size import DESCRIBED_ENVIRONMENT, described_mesh, full_size_step

_TOPOLOGY = flags.DEFINE_string("topology", "v5e:2x4", "Of TPUs, as v5e:2x4, or cpu:NUMBER.")
_STAGES = flags.DEFINE_list("stages", ["avss"], "avs: 2 classes, avss: 71.")
_PHASES = flags.DEFINE_list("phases", ["phase1", "phase2", "all"], "What trains.")
_DTYPES = flags.DEFINE_list("dtypes", ["float32", "bfloat16"], "What the network computes in.")
_FRAMES = flags.DEFINE_list("frames", ["2"], "Frames a device and step.")
_FSDP = flags.DEFINE_list("fsdp", ["1", "8"], "Sizes of the mesh's axis fsdp.")
_KIND = flags.DEFINE_enum("kind", "aavs", ["aavs", "base"], "Of configs/avss.py.")
_REMAT = flags.DEFINE_bool("remat", False, "Recompute layers in the backward pass.")
_ROW = flags.DEFINE_string("row", None, "One row: stage,phase,dtype,frames,fsdp; in this process.")


def measure(name: str, phase_name: str, dtype: str, frames: int, fsdp: int) -> dict[str, float]:
    """GB a device of a row: `state`, `temporary`, `all`; and seconds to compile.

    Of what the compiler refuses, only `all`, what it says would be needed.
    """
    mesh = described_mesh(_TOPOLOGY.value, fsdp)
    full = full_size_step(
        name,
        phase_name,
        kind=_KIND.value,
        dtype=dtype,
        frames=frames * mesh.size,
        remat=_REMAT.value,
        mesh=mesh,
    )
    start = time.perf_counter()
    try:
        memory = full.step.lower(full.state, full.batch, full.key, 0).compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"refused": re.sub(r"\s+", " ", str(error))}
    other = memory.output_size_in_bytes - memory.alias_size_in_bytes
    size = memory.argument_size_in_bytes + memory.temp_size_in_bytes + other
    return {
        "state": memory.argument_size_in_bytes / 1e9,
        "temporary": memory.temp_size_in_bytes / 1e9,
        "all": size / 1e9,
        "seconds": time.perf_counter() - start,
    }


def main(argv):
    """Prints the table, a row as soon as it is done."""
    if _ROW.value:
        *names, frames, fsdp = _ROW.value.split(",")
        print(json.dumps(measure(*names, int(frames), int(fsdp))))
        return
    environment = os.environ | DESCRIBED_ENVIRONMENT
    print(f"configs/avss.py:{_KIND.value}, {_TOPOLOGY.value}{', remat' if _REMAT.value else ''}")
    print("| stage | trains | computes in | frames | fsdp | arguments | temporary | GB a device |")
    print("|---|---|---|---|---|---|---|---|")
    rows = [
        (stage, phase, dtype, frames, fsdp)
        for stage in _STAGES.value
        for phase in _PHASES.value
        for dtype in _DTYPES.value
        for frames in _FRAMES.value
        for fsdp in _FSDP.value
    ]
    for row in rows:
        command = [sys.executable, "-m", "benchmarks.memory", f"--row={','.join(row)}"]
        command += [f"--topology={_TOPOLOGY.value}", f"--kind={_KIND.value}"]
        command += [f"--remat={_REMAT.value}"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"| {' | '.join(row)} | failed: {done.stderr[-300:]!r} |")
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        cells = found.get("refused") or " | ".join(
            f"{found[key]:.2f}" for key in ("state", "temporary", "all")
        )
        print(f"| {' | '.join(row)} | {cells} |", flush=True)


if __name__ == "__main__":
    app.run(main)
