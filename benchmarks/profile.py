"""Where the time of a full-size step or prediction goes: by part of the network, and in how far it
is matrix products.

    python -m benchmarks.profile [--what=predict,avs:phase1] [--frames=5] [--accumulate=1]

Every instruction of the compiled program says from which line it comes; JAX's profiler says how
long each took. A fusion goes to the line that it names, its last operation's. Instructions run side
by side where XLA's CPU backend finds it worth while, so that the seconds may add up to more than a
step takes.
"""

import collections
import gzip
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
from absl import app, flags

import ssp_jax
from benchmarks.full_size import avss_predict, full_size_step

_WHAT = flags.DEFINE_list(
    "what", ["predict", "avs:phase1", "avs:phase2", "avss:phase1"], "predict, or stage:phase."
)
_FRAMES = flags.DEFINE_integer("frames", 5, "Frames of a batch.", 1)
_ACCUMULATE = flags.DEFINE_integer("accumulate", 1, "Parts of a training step's batch.", 1)
_LINES = flags.DEFINE_integer("lines", 16, "Of a table; the rest is one more.", 1)
_INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = .*?\s([\w\-]+)\(")
_CALLED = re.compile(r"calls=%?([\w.\-]+)")
_PRODUCTS = {"dot", "convolution"}
_PACKAGE = Path(ssp_jax.__file__).parent
_PARTS = {"swin", "vggish", "pixel_decoder", "mask_decoder", "losses"}
# They last as long as what they contain.
_AROUND = {"while", "call", "conditional"}


class Program:
    """The text of a compiled program: what its instructions are, and where they come from."""

    def __init__(self, text: str):
        names = _table(text, "FileNames", r'(\d+) "(.*)"')
        functions = _table(text, "FunctionNames", r'(\d+) "(.*)"')
        places = _table(
            text, "FileLocations", r"(\d+) {file_name_id=(\d+) function_name_id=(\d+) .*"
        )
        self._frames = _table(
            text, "StackFrames", r"(\d+) {file_location_id=(\d+) parent_frame_id=(\d+)}"
        )
        self._places = {
            place: (names[name][0], functions[function][0])
            for place, (name, function) in places.items()
        }
        self._frame_of: dict[str, str] = {}
        self._kind: dict[str, str] = {}
        self._called: dict[str, str] = {}
        self._with_products: set[str] = set()
        frame_in: dict[str, str] = {}
        computation = ""
        for line in text.splitlines():
            if line.endswith("{") and " -> " in line:
                computation = line.removeprefix("ENTRY ").split()[0].lstrip("%")
            elif found := _INSTRUCTION.match(line):
                name, self._kind[name] = found[1], found[2]
                if frame := re.search(r"stack_frame_id=(\d+)", line):
                    self._frame_of[name] = frame_in[computation] = frame[1]
                if called := _CALLED.search(line):
                    self._called[name] = called[1]
                if found[2] in _PRODUCTS:
                    self._with_products.add(computation)
        # Some fusions say nothing of themselves, but what they are made of does.
        for name, called in self._called.items():
            if called in frame_in:
                self._frame_of.setdefault(name, frame_in[called])

    def names(self) -> set[str]:
        """The instructions whose time is their own."""
        return {name for name, kind in self._kind.items() if kind not in _AROUND}

    def is_product(self, name: str) -> bool:
        """Does the instruction contain a matrix product or convolution?"""
        return self._kind[name] in _PRODUCTS or self._called.get(name) in self._with_products

    def origin(self, name: str) -> tuple[str, str]:
        """(part of the network, 'file: function' of the formula); '' where no line of ours is."""
        ours = [
            (Path(file), function)
            for file, function in self._stack(self._frame_of.get(name, ""))
            if Path(file).is_relative_to(_PACKAGE)
            and Path(file).stem != "promotion"  # wraps others
        ]
        if not ours:
            return "", ""
        file, function = ours[0]
        words = (word for file, _ in reversed(ours) for word in (file.parent.name, file.stem))
        part = next((word for word in words if word in _PARTS), "else")
        return part, f"{file.stem}: {function}"

    def _stack(self, frame: str) -> Iterator[tuple[str, str]]:
        """(file, function) from the innermost frame outwards."""
        while frame in self._frames:
            place, after = self._frames[frame]
            yield self._places[place]
            # The program's text numbers parents from 1, with 1 for none.
            frame = str(int(after) - 1)


def _table(text: str, title: str, row: str) -> dict[str, tuple[str, ...]]:
    lines = text.split(f"\n{title}\n", 1)[1].split("\n\n", 1)[0].splitlines()
    matches = (re.fullmatch(row, line) for line in lines)
    return {m[1]: m.groups()[1:] for m in matches if m}


def profile(compiled: jax.stages.Compiled, call: Callable[[], None]) -> None:
    """Prints seconds of a call, and of its parts; the first of three calls is not timed."""
    call()
    start = time.perf_counter()
    call()
    wall = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            call()
        (path,) = Path(folder).rglob("*.trace.json.gz")
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    program = Program(compiled.as_text())
    names = program.names()
    products: collections.Counter = collections.Counter()
    others: collections.Counter = collections.Counter()
    for event in events:
        if event.get("ph") == "X" and event["name"] in names:
            counter = products if program.is_product(event["name"]) else others
            counter[program.origin(event["name"])] += event["dur"] / 1e6
    gflop = compiled.cost_analysis()["flops"] / 1e9
    print(
        f"{wall:.2f} s, {gflop:.0f} GFLOP, matrix products {products.total():.2f} s"
        f" ({gflop / products.total():.0f} GFLOP/s), others {others.total():.2f} s\n"
    )
    print("| part | where | products, s | others, s |")
    print("|---|---|---|---|")
    both = (products + others).most_common()
    for origin, _ in both[: _LINES.value]:
        print(f"| {' | '.join(origin)} | {products[origin]:.2f} | {others[origin]:.2f} |")
    rest = [origin for origin, _ in both[_LINES.value :]]
    left = [sum(counter[origin] for origin in rest) for counter in (products, others)]
    print(f"| {len(rest)} more | | {left[0]:.2f} | {left[1]:.2f} |\n", flush=True)


def _predict() -> None:
    predict, params, batch = avss_predict(_FRAMES.value)
    compiled = predict.lower(params, batch).compile()
    profile(compiled, lambda: jax.block_until_ready(compiled(params, batch)))


def _step(stage: str, phase: str) -> None:
    setup = full_size_step(
        stage,
        phase,
        frames=_FRAMES.value,
        kept_features=phase == "phase1",
        accumulate=_ACCUMULATE.value,
    )
    state = setup.state
    compiled = setup.step.lower(state, setup.batch, setup.key, 0).compile()

    def call():
        nonlocal state
        state, _ = compiled(state, setup.batch, setup.key, int(state.step))
        jax.block_until_ready(state)

    profile(compiled, call)


def main(argv):
    """Prints a table of each."""
    jax.config.update("jax_traceback_in_locations_limit", -1)
    for what in _WHAT.value:
        print(f"{what}, {_FRAMES.value} frames, accumulate={_ACCUMULATE.value}: ", end="")
        if what == "predict":
            _predict()
        else:
            _step(*what.split(":"))


if __name__ == "__main__":
    app.run(main)
