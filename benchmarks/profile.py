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
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
from absl import app, flags

from benchmarks.compiled_text import Program
from benchmarks.full_size import full_size_predict, full_size_step
from benchmarks.network_parts import part_of

_WHAT = flags.DEFINE_list(
    "what", ["predict", "avs:phase1", "avs:phase2", "avss:phase1"], "predict, or stage:phase."
)
_FRAMES = flags.DEFINE_integer("frames", 5, "Frames of a batch.", 1)
_ACCUMULATE = flags.DEFINE_integer("accumulate", 1, "Parts of a training step's batch.", 1)
_LINES = flags.DEFINE_integer("lines", 16, "Of a table; the rest is one more.", 1)


def origins(program: Program) -> dict[str, tuple[tuple[str, str], bool]]:
    """Of each instruction whose time is its own, by name: (part of the network, 'file: function' of
    the formula, '' where no line of ours is), and whether it contains a product or convolution."""
    found = {}
    for made, _ in program.running():
        # `promotion` wraps others.
        places = [place for place in program.places(made) if "promotion" not in place]
        products = any(inner.op in ("dot", "convolution") for inner in program.inside(made))
        formula = places[-1].split("/")[-1] if places else ""
        found[made.name] = (part_of(places), formula), products
    return found


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
    instructions = origins(Program(compiled.as_text()))
    products: collections.Counter = collections.Counter()
    others: collections.Counter = collections.Counter()
    for event in events:
        if event.get("ph") == "X" and event["name"] in instructions:
            origin, is_product = instructions[event["name"]]
            (products if is_product else others)[origin] += event["dur"] / 1e6
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
    predict, params, batch = full_size_predict("avss", frames=_FRAMES.value)
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
