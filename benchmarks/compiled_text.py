"""The text of a compiled program: what runs, how often, how large its arrays are, and which line
of the project each instruction comes from.

For the programs of any platform. The lines are there where the program was lowered with
`jax_traceback_in_locations_limit` at -1.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import ssp_jax

_PACKAGE = Path(ssp_jax.__file__).parent
_BITS = {"pred": 8, "token": 0, "s1": 1, "u1": 1, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "c64": 64}
_BITS |= {f"{kind}{bits}": bits for kind in "su" for bits in (8, 16, 32, 64)}
_BITS |= {"bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c128": 128, "f8e4m3fn": 8, "f8e5m2": 8}
_ARRAY = re.compile(r"([a-z][a-z0-9]*)\[([\d,]*)\](?:\{([^{}]*)\})?")
_HEAD = re.compile(r"(ROOT )?%?([\w.\-]+) = ")
_BRACKET = re.compile(r"[()\[\]{}]")
_CALLED = re.compile(r"(?:calls|to_apply|called_computations)=\{?%?([\w.\-]+)")
_BRANCHES = re.compile(
    r"(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=%?([\w.\-]+))"
)
# What another computation is a part of: a SparseCore's work is a custom call within a started one.
_HOLDING = ("fusion", "call", "async-start", "custom-call")
# They name what is there already, or end what another instruction began.
_FREE = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "after-all"}
_FREE |= {"partition-id", "replica-id", "opt-barrier", "domain"}
# How many instructions away the origin of one that says nothing is looked for.
_NEAR = 6


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of an instruction's type. `layout` as in the text: '1,0:T(8,128)(2,1)S(1)'."""

    dtype: str
    shape: tuple[int, ...]
    layout: str = ""

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> float:
        """What it takes in memory, with the padding of its tiles (a TPU's: 8 x 128 and others)."""
        size, tile = self.size, re.search(r"T\(([\d,]+)\)", self.layout)
        if tile and size:
            order = [int(axis) for axis in self.layout.split(":")[0].split(",") if axis]
            tile = [int(side) for side in tile[1].split(",")][::-1]
            # From the minor axis on, as many as the tile has.
            sides = [self.shape[axis] for axis in order] + [1] * (len(tile) - len(order))
            size = math.prod(
                -(-side // unit) * unit for side, unit in zip(sides, tile, strict=False)
            )
            size *= math.prod(sides[len(tile) :])
        return size * _BITS[self.dtype] / 8

    @property
    def on_chip(self) -> bool:
        """Does it lie in a TPU's own memory (VMEM), not in that beside it?"""
        return re.search(r"S\([1-9]", self.layout) is not None


@functools.lru_cache(maxsize=100_000)
def arrays(text: str) -> tuple[Array, ...]:
    """The arrays that a type names, those of a tuple one after the other."""
    return tuple(
        Array(dtype, tuple(int(side) for side in shape.split(",") if side), layout)
        for dtype, shape, layout in _ARRAY.findall(text)
        if dtype in _BITS
    )


@dataclasses.dataclass(slots=True)
class Instruction:
    """One line of a computation: `name = type op(arguments), attributes`.

    `operands` are the names among the arguments: those of the instructions that it reads.
    """

    name: str
    type: str
    op: str
    arguments: str
    operands: tuple[str, ...]
    attributes: str
    computation: str

    @property
    def results(self) -> tuple[Array, ...]:
        """The arrays that it makes."""
        return arrays(self.type)

    @property
    def called(self) -> str | None:
        """The computation that it fuses, or calls."""
        found = _CALLED.search(self.attributes)
        return found[1] if found else None

    def attribute(self, pattern: str) -> str | None:
        """First group of the pattern in its attributes."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else None

    def numbers(self, name: str) -> list[int]:
        """Of an attribute that lists them: `lhs_contracting_dims={1,2}`."""
        return [
            int(x) for x in re.findall(r"\d+", self.attribute(rf"\b{name}=\{{([\d,]*)\}}") or "")
        ]


class Program:
    """A compiled program.

    Attributes:
      computations: {name: its instructions, in order}.
      entry: name of the one that a call runs.
    """

    def __init__(self, text: str):
        """Read `text`, what `jax.stages.Compiled.as_text()` gives."""
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = ""
        self._named: dict[tuple[str, str], Instruction] = {}
        self._read_and_readers: dict[str, tuple[dict, dict]] = {}
        self._known_places: dict[str, tuple[str, ...]] = {}
        self._read_frames(text)
        computation = ""
        for line in text.splitlines():
            if line.endswith("{") and " -> " in line and not line.startswith(" "):
                computation = line.removeprefix("ENTRY ").split("(")[0].split()[0].lstrip("%")
                self.computations[computation] = []
                if line.startswith("ENTRY "):
                    self.entry = computation
            elif computation and (found := _HEAD.match(line.lstrip())):
                self._read(computation, line.lstrip(), found)

    def _read(self, computation: str, line: str, head: re.Match) -> None:
        rest = line[head.end() :]
        end = _closed(rest) if rest.startswith("(") else rest.find(" ")
        kind, rest = rest[:end], rest[end:].lstrip()
        start = rest.find("(")
        if end < 0 or start < 0:
            return
        close = start + _closed(rest[start:])
        inner = rest[start + 1 : close - 1]
        operands = tuple(re.findall(r"%([\w.\-]+)", inner))
        made = Instruction(head[2], kind, rest[:start], inner, operands, rest[close:], computation)
        self.computations[computation].append(made)
        self._named[computation, made.name] = made

    def running(self, computation: str = "", times: int = 1) -> Iterator[tuple[Instruction, int]]:
        """The instructions that run by themselves (kernels, copies, ...), and how often each.

        A loop's body counts as often as `trip_count` says, once where that is not known
        (`unknown_loops`); of a conditional all branches count.
        """
        for made in self.computations[computation or self.entry]:
            if made.op == "while":
                turns = times * (self.trip_count(made) or 1)
                yield from self.running(made.attribute(r"body=%?([\w.\-]+)"), turns)
            elif made.op == "conditional":
                for several, one in _BRANCHES.findall(made.attributes):
                    for branch in re.findall(r"[\w.\-]+", several or one):
                        yield from self.running(branch, times)
            elif made.op == "call":
                yield from self.running(made.called, times)
            elif made.op not in _FREE and not made.op.endswith(("-done", "-update")):
                yield made, times

    def unknown_loops(self) -> int:
        """How many loops there are of which the compiler does not know the number of turns."""
        every = (made for computation in self.computations.values() for made in computation)
        return sum(made.op == "while" and self.trip_count(made) is None for made in every)

    def trip_count(self, loop: Instruction) -> int | None:
        """How often a `while` runs its body: as the compiler says, or where it does not (on TPUs),
        as its condition does: a single comparison, `turn < count`, counted from 0."""
        known = loop.attribute(r'known_trip_count"?:\{"n":"?(\d+)')
        if known:
            return int(known)
        body = self.computations.get(loop.attribute(r"condition=%?([\w.\-]+)") or "", [])
        counts = [made.arguments for made in body if made.op == "constant"]
        asked = [made for made in body if made.op not in _FREE]
        single = len(asked) == len(counts) == 1 and "compare" in asked[0].op + asked[0].name
        return int(counts[0]) if single and counts[0].isdigit() else None

    def inside(self, made: Instruction) -> Iterator[Instruction]:
        """The instruction and all that it fuses, or hands to a SparseCore."""
        yield made
        if made.op in _HOLDING and made.called:
            for inner in self.computations.get(made.called, ()):
                yield from self.inside(inner)

    def arrays_of(self, made: Instruction, operand: str) -> tuple[Array, ...]:
        """The arrays of one that the instruction reads."""
        found = self._named.get((made.computation, operand))
        return found.results if found else ()

    def read(self, made: Instruction) -> list[Array]:
        """The arrays of all that the instruction reads, in order."""
        return [array for name in made.operands for array in self.arrays_of(made, name)]

    def places(self, made: Instruction) -> tuple[str, ...]:
        """Return where in the project the formula stands: ('train_step: loss_of', ..., 'linear:
        Linear.__call__') from the outermost to the innermost; empty where no line of ours is.

        Of an instruction that says nothing the places are those of what it fuses, else of what it
        reads, else of what reads it: so of copies, and of what the compiler makes of a scatter.
        """
        return self._places_of(self._frame(made) or self._frame_beside(made) or "")

    def _frame(self, made: Instruction) -> str | None:
        own = _frame_of(made)
        if own or made.op != "fusion":
            return own
        inner = [frame for inner in self.inside(made) if (frame := _frame_of(inner))]
        return inner[-1] if inner else None

    def _frame_beside(self, made: Instruction) -> str | None:
        before, after = self._neighbours(made.computation)
        for neighbours in (before, after):
            seen, near = {made.name}, [made.name]
            for _ in range(_NEAR):
                near = [name for one in near for name in neighbours[one] if name not in seen]
                seen.update(near)
                for name in near:
                    if frame := self._frame(self._named[made.computation, name]):
                        return frame
        return None

    def _neighbours(self, computation: str) -> tuple[dict, dict]:
        """({name: what it reads}, {name: what reads it})."""
        if computation not in self._read_and_readers:
            before, after = collections.defaultdict(list), collections.defaultdict(list)
            for made in self.computations[computation]:
                if made.op != "tuple":  # of things that have nothing to do with each other
                    before[made.name] = [
                        name for name in made.operands if (computation, name) in self._named
                    ]
                    for name in made.operands:
                        after[name].append(made.name)
            self._read_and_readers[computation] = before, after
        return self._read_and_readers[computation]

    def _places_of(self, frame: str) -> tuple[str, ...]:
        if frame in self._known_places:
            return self._known_places[frame]
        first, found = frame, []
        while frame in self._frames:
            place, after = self._frames[frame]
            name, function = self._locations[place]
            file = Path(self._names[name][0])
            if file.is_relative_to(_PACKAGE):
                words = file.relative_to(_PACKAGE).with_suffix("").parts
                found.append(f"{'/'.join(words)}: {self._functions[function][0]}")
            # The text numbers parents from 1, with 1 for none.
            frame = str(int(after or 1) - 1)
        self._known_places[first] = tuple(reversed(found))
        return self._known_places[first]

    def _read_frames(self, text: str) -> None:
        self._names = _table(text, "FileNames", r'(\d+) "(.*)"')
        self._functions = _table(text, "FunctionNames", r'(\d+) "(.*)"')
        self._locations = _table(
            text, "FileLocations", r"(\d+) {file_name_id=(\d+) function_name_id=(\d+) .*"
        )
        self._frames = _table(
            text, "StackFrames", r"(\d+) {file_location_id=(\d+)(?: parent_frame_id=(\d+))?}"
        )


def _frame_of(made: Instruction) -> str | None:
    return made.attribute(r"stack_frame_id=(\d+)")


def _closed(text: str) -> int:
    """Index behind the bracket that closes the one that `text` begins with."""
    depth = 0
    for bracket in _BRACKET.finditer(text):
        depth += 1 if bracket[0] in "([{" else -1
        if not depth:
            return bracket.end()
    return len(text)


def _table(text: str, title: str, row: str) -> dict[str, Sequence[str]]:
    if f"\n{title}\n" not in text:
        return {}
    lines = text.split(f"\n{title}\n", 1)[1].split("\n\n", 1)[0].splitlines()
    matches = (re.fullmatch(row, line) for line in lines)
    return {found[1]: found.groups()[1:] for found in matches if found}
