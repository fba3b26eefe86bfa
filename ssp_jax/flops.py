"""Floating point operations of a compiled step, as XLA counts them, loops by all of their turns."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.extend import core


def step_flops(traced: jax.stages.Traced, compiled: jax.stages.Compiled) -> float | None:
    """FLOPs of one call on one device; None where XLA gives none for this platform.

    XLA's own count (`cost_analysis`) has the body of a loop once, however often it runs. So it is
    multiplied by what the loops add to the matrix products and convolutions of the program that was
    compiled: with `accumulate` nearly the number of parts.
    """
    cost = compiled.cost_analysis() or {}
    if not cost.get("flops", 0) > 0:
        return None
    sharding = jax.tree.leaves(compiled.input_shardings)[0]
    once, all_turns = _products(traced.jaxpr.jaxpr, next(iter(sharding.device_set)).platform)
    return float(cost["flops"]) * (all_turns / once if once else 1.0)


def _products(jaxpr: core.Jaxpr, platform: str) -> tuple[float, float]:
    """FLOPs of products and convolutions, with a loop's body once and as often as it runs.

    Of loops whose turns are not known, the body once; of ways for several platforms
    (`jax.lax.platform_dependent`) this one's; of other alternatives, all.
    """
    once = all_turns = 0.0
    for eqn in jaxpr.eqns:
        turns = eqn.params["length"] if eqn.primitive.name == "scan" else 1
        own = _product(eqn)
        once, all_turns = once + own, all_turns + own
        for inner in _inner(_lowered(eqn, platform)):
            inner_once, inner_all = _products(inner, platform)
            once, all_turns = once + inner_once, all_turns + turns * inner_all
    return once, all_turns


def _product(eqn: core.JaxprEqn) -> float:
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        shape = eqn.invars[0].aval.shape
        return 2.0 * eqn.outvars[0].aval.size * np.prod([shape[axis] for axis in contracted])
    if eqn.primitive.name == "conv_general_dilated":
        kernel = eqn.invars[1].aval
        outputs = kernel.shape[eqn.params["dimension_numbers"].rhs_spec[0]]
        return 2.0 * eqn.outvars[0].aval.size * kernel.size / outputs
    return 0.0


def _lowered(eqn: core.JaxprEqn, platform: str) -> Any:
    """Parameters of an operation, without the ways of other platforms."""
    platforms = eqn.params.get("branches_platforms")
    if platforms is None:
        return eqn.params
    names = {"gpu", "cuda", "rocm"} if platform == "gpu" else {platform}
    # The last way is the default, and has None.
    chosen = (way for way, of in enumerate(platforms) if of is None or names & set(of))
    return eqn.params["branches"][next(chosen)]


def _inner(value: Any) -> Iterator[core.Jaxpr]:
    """Programs within the parameters of an operation."""
    if isinstance(value, core.ClosedJaxpr):
        yield value.jaxpr
    elif isinstance(value, core.Jaxpr):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _inner(inner)
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from _inner(inner)
