"""What a compiled program has to do, counted in its text: FLOPs, bytes, cycles, gathers, scatters.

*FLOPs* are those of matrix products and convolutions. *Bytes* are the operands and results of
every instruction that runs by itself, where they lie in the device's memory, in their padded
layout; of an array of which only a slice or rows are read or written, these. *Cycles*, of TPUs, are
the compiler's own estimate; it has none for gathers, scatters and sorts, see `LOOKUP_CYCLES`, and
for kernels written by hand, see `kernel_bundles`.
"""

import collections
import dataclasses
import math
import re
import types
from collections.abc import Iterator, Mapping

from benchmarks.compiled_text import Array, Instruction, Program
from benchmarks.device_peaks import Peaks
from benchmarks.network_parts import part_of

# Cycles of a scalar or row that a TPU looks up, counted once in the final instruction bundles that
# libtpu writes out (v5e, libtpu 0.0.52), without what they wait for. Those of the scatter of a row
# and of a sort's key count branches that are not all taken: within a factor of two.
LOOKUP_CYCLES = {
    "gather, scalar": 16.1,
    "gather, scalar of 8 bits": 9.9,
    "gather, row": 14.0,
    "gather, row of 16 bits": 10.9,
    "gather, row of 64 or more": 3.1,
    "gather, row of a small table": 2.2,
    "scatter, scalar": 8.0,
    "scatter, row": 15.0,
    "sort, key": 3.0,
}
_SMALL_TABLE = 1024  # rows


@dataclasses.dataclass(frozen=True)
class Lookup:
    """A gather, scatter or sort: so many `places` of `row` neighbouring elements each."""

    op: str
    places: int
    row: int
    array: Array  # that is read, added to, or sorted

    @property
    def cycles(self) -> float:
        """On a TPU, by `LOOKUP_CYCLES`."""
        if self.op == "sort":
            kind = "sort, key"
        elif self.op == "scatter":
            kind = "scatter, row" if self.row > 1 else "scatter, scalar"
        elif self.row == 1:
            kind = "gather, scalar" + (" of 8 bits" if self.bits == 8 else "")
        elif self.array.size // self.row <= _SMALL_TABLE:
            kind = "gather, row of a small table"
        elif self.row >= 64:
            kind = "gather, row of 64 or more"
        else:
            kind = "gather, row" + (" of 16 bits" if self.bits == 16 else "")
        return self.places * LOOKUP_CYCLES[kind]

    @property
    def bits(self) -> int:
        """Of an element."""
        return Array(self.array.dtype, ()).bytes * 8


def lookups(program: Program, made: Instruction) -> Iterator[Lookup]:
    """Those of an instruction that runs by itself, and of what it fuses."""
    for inner in program.inside(made):
        if inner.op not in ("gather", "scatter", "sort"):
            continue
        read = program.read(inner)
        if inner.op == "gather":
            row = math.prod(inner.numbers("slice_sizes"))
            yield Lookup("gather", inner.results[0].size // max(row, 1), row, read[0])
        elif inner.op == "scatter":
            updates = read[-1]
            row = math.prod(updates.shape[axis] for axis in inner.numbers("update_window_dims"))
            yield Lookup("scatter", updates.size // max(row, 1), row, read[0])
        else:
            yield Lookup("sort", read[0].size, 1, read[0])


def estimated_cycles(made: Instruction) -> int | None:
    """Return what a TPU's compiler says, where it does."""
    found = made.attribute(r'estimated_cycles":"?(\d+)')
    return int(found) if found else None


def cycles(program: Program, made: Instruction, kernels: Mapping[str, int]) -> float:
    """Of an instruction that runs by itself, on a TPU; `kernels` as in `count`.

    What is handed to a SparseCore (v6e, v5p) runs beside the others and counts nothing.
    """
    known = kernels.get(made.name, estimated_cycles(made))
    if known is not None:
        return known
    if "sparsecore" in made.attributes:
        return 0.0
    return sum(found.cycles for found in lookups(program, made))


def flops(program: Program, made: Instruction) -> float:
    """Of the matrix products and convolutions of an instruction and what it fuses."""
    return sum(_own_flops(program, inner) for inner in program.inside(made))


def _own_flops(program: Program, made: Instruction) -> float:
    target = made.attribute(r'custom_call_target="([^"]*)"') if made.op == "custom-call" else ""
    read = program.read(made)
    if made.op == "dot":
        return _product(made.results[0], read[0], made.numbers("lhs_contracting_dims"))
    if made.op == "convolution":
        return _convolution(made, read[0], read[1], made.results[0])
    if "gemm" in target or "cublas" in target:
        listed = made.attribute(r'"lhs_contracting_dimensions":\s*\[([^\]]*)\]') or ""
        return _product(made.results[0], read[0], [int(x) for x in re.findall(r"\d+", listed)])
    if "cudnn$conv" in target:
        # The labels are those of the convolution whose gradient this may be.
        data, kernel, result = read[0], read[1], made.results[0]
        if "BackwardInput" in target:
            data, result = result, data
        elif "BackwardFilter" in target:
            kernel, result = result, kernel
        return _convolution(made, data, kernel, result)
    if "fmha" in target:
        # Two products of (queries x keys x width), backwards five.
        listed = (
            made.attribute(r'"intermediate_tensor_shape":.*?"dimensions":\s*\[([^\]]*)\]') or ""
        )
        scores = math.prod(int(x) for x in re.findall(r"\d+", listed))
        return 2 * scores * read[0].shape[-1] * (5 if "Backward" in target else 2)
    told = made.attribute(r'"cost_estimate":\{[^}]*"flops":"?(\d+)')
    return float(told or 0)


def _product(result: Array, left: Array, contracted: list[int]) -> float:
    return 2.0 * result.size * math.prod(left.shape[axis] for axis in contracted)


def _convolution(made: Instruction, data: Array, kernel: Array, result: Array) -> float:
    labels = made.attribute(r"dim_labels=(\w+_\w+->\w+)")
    of_data, of_kernel, of_result = re.split("_|->", labels)
    window = dict(word.split("=") for word in (made.attribute(r"window=\{([^}]*)\}") or "").split())
    axes = sorted(label for label in of_result if label.isdigit())

    def each(name: str, default: int) -> list[int]:
        return [int(n.split("_")[0]) for n in window[name].split("x")] if name in window else (
            [default] * len(axes)
        )  # fmt: skip

    pairs = 1
    for axis, stride, low, spread, apart in zip(
        axes, each("stride", 1), each("pad", 0), each("lhs_dilate", 1), each("rhs_dilate", 1),
        strict=True,
    ):  # fmt: skip
        pairs *= _pairs(
            result.shape[of_result.index(axis)],
            kernel.shape[of_kernel.index(axis)],
            data.shape[of_data.index(axis)],
            stride, low, spread, apart,
        )  # fmt: skip
    groups = int(made.attribute(r"batch_group_count=(\d+)") or 1)
    outer = result.shape[of_result.index("b")] * result.shape[of_result.index("f")]
    return 2.0 * outer * pairs * kernel.shape[of_kernel.index("i")] / groups


def _pairs(
    results: int, taps: int, length: int, stride: int, low: int, spread: int, apart: int
) -> int:
    """Along one axis: how many pairs of a result and a tap meet an element, not padding."""
    last, found = (length - 1) * spread, 0
    for tap in range(taps):
        first = tap * apart - low
        if spread == 1:
            begin = max(0, -(first // stride))
            found += max(0, min(results - 1, (last - first) // stride) - begin + 1)
        else:
            places = (result * stride + first for result in range(results))
            found += sum(0 <= place <= last and place % spread == 0 for place in places)
    return found


def memory_bytes(program: Program, made: Instruction) -> float:
    """What an instruction that runs by itself reads from and writes to the device's memory."""
    results = made.results
    if made.op.endswith("-start") and made.op != "async-start":  # from, to, a token
        ends = sorted(results[:2], key=lambda array: array.bytes)
        return sum(ends[0].bytes for array in ends if not array.on_chip)
    if made.op == "custom-call":  # without a library's room to work in
        results = [array for array in results if array.dtype not in ("s8", "u8")]
    reads, overwritten = _parts_touched(program, made)
    written = sum(array.bytes for array in results if not array.on_chip)
    total = written if overwritten is None else min(written, overwritten)
    for number, name in enumerate(made.operands):
        arrays = program.arrays_of(made, name)
        whole = sum(array.bytes for array in arrays if not array.on_chip)
        total += min(whole, reads.get(number, whole))
    return total


def _parts_touched(program: Program, made: Instruction) -> tuple[dict[int, float], float | None]:
    """({operand's number: bytes} of those of which only parts are read, bytes that are written
    where only a part of what is there is overwritten)."""
    if made.op != "fusion" or not made.called:
        body, root = [], made
        reads = {0: _part_read(program, made)}
    else:
        body = program.computations[made.called]
        root = body[-1]
        reads = {
            int(inner.arguments): _part_of_users(program, body, inner)
            for inner in body
            if inner.op == "parameter"
        }
    while root.op == "bitcast":
        root = next(inner for inner in body if inner.name == root.operands[0])
    known = {number: part for number, part in reads.items() if part is not None}
    update = root.op == "dynamic-update-slice"
    return known, program.read(root)[1].bytes if update else None


def _part_of_users(program: Program, body: list[Instruction], of: Instruction) -> float | None:
    total = 0.0
    for user in body:
        if of.name not in user.operands:
            continue
        if user.op == "bitcast":
            part = _part_of_users(program, body, user)
        else:
            part = _part_read(program, user) if user.operands[0] == of.name else None
        if part is None:
            return None
        total += part
    return total


def _part_read(program: Program, user: Instruction) -> float | None:
    """Bytes that it reads of its first operand, where that is not all."""
    if user.op in ("dynamic-slice", "gather"):
        return user.results[0].bytes
    return 0.0 if user.op == "dynamic-update-slice" else None


@dataclasses.dataclass
class Total:
    """Of some instructions: how many run by themselves, and what they have to do.

    `floor` in seconds: of a TPU the cycles at its clock; else kernel by kernel the longer of its
    FLOPs at the peak and its bytes at the bandwidth, without the launches.
    """

    kernels: int = 0
    flops: float = 0.0
    bytes: float = 0.0
    cycles: float = 0.0
    floor: float = 0.0


@dataclasses.dataclass
class Counts:
    """Of a program: by part of the network, and what is looked up one by one.

    Attributes:
      parts: {part: its total}. places: of all gathers and scatters. largest: of one of them.
      looked_up: cycles of gathers, scatters and sorts, by `LOOKUP_CYCLES`.
      own_kernels: cycles of the project's own.
      unknown_loops: as `Program.unknown_loops`.
    """

    parts: dict[str, Total]
    places: int
    largest: int
    looked_up: float
    own_kernels: float
    unknown_loops: int

    @property
    def total(self) -> Total:
        """Of all parts."""
        rows = [dataclasses.astuple(part) for part in self.parts.values()]
        return Total(*map(sum, zip(*rows, strict=True)))


def count(
    program: Program,
    peaks: Peaks,
    dtype: str = "bfloat16",
    kernels: Mapping[str, int] = types.MappingProxyType({}),
) -> Counts:
    """All of it.

    Args:
      dtype: what the network computes in.
      kernels: cycles of a TPU's own kernels, as `kernel_bundles.kernel_cycles` gives them.
    """
    parts: dict[str, Total] = collections.defaultdict(Total)
    counts = Counts(parts, 0, 0, 0.0, 0.0, program.unknown_loops())
    peak = peaks.flops * (peaks.float32 if dtype == "float32" else 1.0)
    for made, times in program.running():
        found = [x for x in lookups(program, made) if x.op != "sort"]
        counts.places += times * sum(x.places for x in found)
        counts.largest = max([counts.largest, *(x.places for x in found)])
        size, work = memory_bytes(program, made), flops(program, made)
        if peaks.clock:
            turns = cycles(program, made, kernels)
            floor = turns / peaks.clock
            if made.name in kernels:
                counts.own_kernels += times * turns
            elif estimated_cycles(made) is None:
                counts.looked_up += times * turns
        else:
            turns, floor = 0.0, max(work / peak, size / peaks.bytes)
        part = parts[part_of(program.places(made))]
        part.kernels += times
        part.flops += times * work
        part.bytes += times * size
        part.cycles += times * turns
        part.floor += times * floor
    return counts
