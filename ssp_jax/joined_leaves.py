"""Small leaves of one kind as one array: an optimiser then has a few operations for all of them.

A network has hundreds of leaves, most of them small, and an optimiser a dozen operations for each:
together more than the network itself has, all to be compiled.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

# Larger leaves stay by themselves: to join them costs more than the operations it saves, and on
# several devices they may be split. Stacked matrices of one shape cost Muon on a CPU 15 % of a
# whole step: products in a batch are slower there than one after the other.
_SMALL = 2**14


@dataclasses.dataclass(frozen=True)
class JoinedLeaves:
    """Which leaves lie in one array; all others are arrays of their own.

    Attributes:
      names: name of the array -> names of its leaves, one after the other, by module.
      shapes: of the joined leaves by name.
    """

    names: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    def join(self, leaves: Mapping[str, Array]) -> dict[str, Array]:
        """The arrays by name: (n,) of joined leaves, others as they are."""
        joined = {
            array: jnp.concatenate([leaves[name].reshape(-1) for name in names])
            for array, names in self.names.items()
        }
        return _made(joined) | {k: x for k, x in leaves.items() if k not in self.shapes}

    def split(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """The leaves by name, of what `join` gave or of arrays like it."""
        joined, leaves = self._divide(arrays)
        for array, names in self.names.items():
            for name, start, end in self._places(names):
                leaves[name] = joined[array][start:end].reshape(self.shapes[name])
        return leaves

    def parts(self, arrays: Mapping[str, Array]) -> dict[str, list[Array]]:
        """{module: what of the arrays belongs to it}, see `module_of`."""
        joined, alone = self._divide(arrays)
        parts: dict[str, list[Array]] = {}
        for name, leaf in alone.items():
            parts.setdefault(module_of(name), []).append(leaf)
        for array, names in self.names.items():
            places = self._places(names)
            for module, found in itertools.groupby(places, lambda place: module_of(place[0])):
                within = list(found)
                part = joined[array][within[0][1] : within[-1][2]]
                parts.setdefault(module, []).append(part)
        return parts

    def _divide(self, arrays: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        joined = {k: x for k, x in arrays.items() if k in self.names}
        return _made(joined), {k: x for k, x in arrays.items() if k not in self.names}

    def _places(self, names: tuple[str, ...]) -> Iterator[tuple[str, int, int]]:
        """(leaf, its start, its end) within the array."""
        ends = list(itertools.accumulate(math.prod(self.shapes[name]) for name in names))
        return zip(names, [0, *ends[:-1]], ends, strict=True)


ALONE = JoinedLeaves()  # every leaf an array of its own


def _made(arrays: dict[str, Shaped[Array, "..."]]) -> dict[str, Array]:
    # Else XLA fuses what makes an array with each that reads a part of it, over and over.
    return jax.lax.optimization_barrier(arrays)


def module_of(name: str) -> str:
    """The first two names of a leaf's path: 'network/encoder', 'sound_classifier', ..."""
    return "/".join(name.split("/")[:-1][:2]) or name


def join_small(leaves: Mapping[str, Any], kinds: Mapping[str, str]) -> JoinedLeaves:
    """Join the small leaves of each kind into an array of the kind's name.

    Args:
      leaves: arrays or shapes by name. kinds: of the leaves that may be joined.
    """
    names: dict[str, tuple[str, ...]] = {}
    shapes = {}
    for name in sorted(kinds, key=module_of):
        shape = tuple(leaves[name].shape)
        if math.prod(shape) < _SMALL:
            names[kinds[name]] = (*names.get(kinds[name], ()), name)
            shapes[name] = shape
    return JoinedLeaves(names, shapes)
