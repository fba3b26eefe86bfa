"""Cycles of the project's own TPU kernels, for which the compiler gives no estimate.

Compiles each kernel of a compiled program once more, alone, in a process in which libtpu writes out
the instruction bundles, and counts these as often as their loops run. A bundle is a cycle, unless
it waits: the count is a floor.
"""

import collections
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import jax
import numpy as np
from jax.experimental import topologies

from benchmarks.compiled_text import Instruction, Program
from benchmarks.full_size import DESCRIBED_ENVIRONMENT

_TARGET = "tpu_custom_call"
_DTYPES = {"f32": "float32", "bf16": "bfloat16", "s32": "int32", "u32": "uint32", "pred": "bool"}
_DTYPES |= {"s8": "int8", "u8": "uint8", "s16": "int16", "u16": "uint16", "f16": "float16"}
_BUNDLE = re.compile(r"\s*(?:0x[0-9a-f]+|0)\s+(\w\w)?[^:]*:\s*(>*)\s*\{")
_TEST = re.compile(r"totalorder [^;]*?, (\d+) /\* loop exit test")


def is_own(made: Instruction) -> bool:
    """Is it a kernel written for TPUs by hand (Pallas)?"""
    return made.op == "custom-call" and f'"{_TARGET}"' in made.attributes


def kernel_cycles(program: Program, topology: str) -> dict[str, int]:
    """{name of an instruction that is a kernel: cycles of one call}."""
    calls: dict[str, list[str]] = {}
    for made, _ in program.running():
        if is_own(made):
            shapes = [
                [(x.dtype, x.shape) for x in some] for some in (program.read(made), made.results)
            ]
            text = made.attribute(r"backend_config=(\{.*)")
            config = json.JSONDecoder().raw_decode(text)[0]["custom_call_config"]
            kernel = json.dumps([{"custom_call_config": config}, *shapes])
            calls.setdefault(kernel, []).append(made.name)
    found = {}
    for kernel, names in calls.items():
        with tempfile.TemporaryDirectory() as folder:
            options = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
            subprocess.run(
                [sys.executable, "-m", "benchmarks.kernel_bundles", topology],
                input=kernel,
                env=os.environ | DESCRIBED_ENVIRONMENT | {"LIBTPU_INIT_ARGS": options},
                check=True,
                text=True,
                stdout=subprocess.DEVNULL,
            )
            # Copies of operands have files of their own.
            (file,) = Path(folder).glob("*-ffi_call*[0-9]-final_bundles.txt")
            found |= dict.fromkeys(names, cycles_of_bundles(file.read_text().splitlines()))
    return found


def cycles_of_bundles(lines: Iterable[str]) -> int:
    """Of the text of a kernel's final bundles: bundles, times the turns of the loops around each.

    A loop of which the text does not say how often it runs counts once.
    """
    loops: dict[int, int] = {}  # depth -> number of the loop that is open there
    bundles: collections.Counter = collections.Counter()  # by the loops around them
    turns: dict[int, int] = {}
    number = 0
    for line in lines:
        if not (found := _BUNDLE.match(line)):
            continue
        depth = len(found[2])
        if found[1] == "LB":
            number += 1
            loops[depth] = number
        around = tuple(loops[level] for level in range(1, depth + 1) if level in loops)
        bundles[around] += 1
        if around and (test := _TEST.search(line)):
            turns.setdefault(around[-1], int(test[1]))
    return sum(
        count * math.prod(turns.get(loop, 1) for loop in around)
        for around, count in bundles.items()
    )


def _compile(topology: str, config: dict, read: list, results: list) -> None:
    described = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    mesh = jax.sharding.Mesh(np.array(described.devices[:1]), ("one",))
    everywhere = jax.sharding.NamedSharding(mesh, jax.P())
    read, results = (
        [jax.ShapeDtypeStruct(shape, _DTYPES[dtype]) for dtype, shape in some]
        for some in (read, results)
    )
    call = jax.ffi.ffi_call(
        _TARGET, results, custom_call_api_version=1, legacy_backend_config=json.dumps(config)
    )
    jax.jit(call, in_shardings=everywhere, out_shardings=everywhere).lower(*read).compile()


if __name__ == "__main__":
    _compile(sys.argv[1], *json.load(sys.stdin))
