"""How good the programs are that a TPU or GPU would run, as far as their compilers tell.

    python -m benchmarks.compiled [--devices=v5e,h100] [--programs=avss:phase2] [--write]

Compiles full-size programs of `configs/avss.py` for devices that need not be there
(`pip install -e ".[aot]"`) and counts in the compiled text what a device would have to do; nothing
is executed. docs/performance.md says what the numbers are, and gets the table with --write. Each
program is compiled in a process of its own, which takes minutes.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence

from absl import app, flags

from benchmarks.compiled_rows import PAGE, TOPOLOGIES, measure, table, write
from benchmarks.full_size import DESCRIBED_ENVIRONMENT, lacking_compiler

_DEVICES = flags.DEFINE_list("devices", ["v5e"], f"Of {', '.join(TOPOLOGIES)}.")
_PROGRAMS = flags.DEFINE_list(
    "programs",
    ["avss:predict", "avss:phase2"],
    "stage:what, with stage avs or avss, and what of predict, phase1, phase2, all (what trains).",
)
_KINDS = flags.DEFINE_list("kinds", ["aavs"], "Of configs/avss.py: aavs, base.")
_DTYPES = flags.DEFINE_list("dtypes", ["bfloat16"], "What the network computes in.")
_FRAMES = flags.DEFINE_list("frames", ["2"], "Frames a device.")
_WRITE = flags.DEFINE_bool("write", False, "Write the table into docs/performance.md.")
flags.register_validator(
    "devices", lambda names: set(names) <= TOPOLOGIES.keys(), "expected words of those in --help"
)
_ROW = flags.DEFINE_string("row", None, "device,program,kind,dtype,frames: in this process.")


def _in_own_process(row: Sequence[str]) -> dict:
    lacking = lacking_compiler(TOPOLOGIES[row[0]])
    if lacking:
        return {"said": f"{lacking} is not installed"}
    command = [sys.executable, "-m", "benchmarks.compiled", f"--row={','.join(row)}"]
    environment = os.environ | DESCRIBED_ENVIRONMENT
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        return {"said": "failed"}
    found = json.loads(done.stdout.splitlines()[-1])
    return {"said": found["refused"]} if "refused" in found else found


def main(argv):
    """Prints the table, and each program's floor as soon as it is known."""
    del argv
    if _ROW.value:
        *names, frames = _ROW.value.split(",")
        print(json.dumps(measure(*names, int(frames))))
        return
    rows = [
        (device, program, kind, dtype, frames)
        for device in _DEVICES.value
        for kind in _KINDS.value
        for program in _PROGRAMS.value
        for dtype in _DTYPES.value
        for frames in _FRAMES.value
    ]
    found = []
    for row in rows:
        found.append(_in_own_process(row))
        said = found[-1].get("said") or f"at least {found[-1]['floor_ms']:.1f} ms"
        print(f"{' '.join(row)}: {said}", file=sys.stderr, flush=True)
    made = table(rows, found)
    print(made)
    if _WRITE.value:
        write(PAGE, made)


if __name__ == "__main__":
    app.run(main)
