"""Shapes of a module's parameters, without computing any."""

from collections.abc import Callable

from flax import nnx, traverse_util

from ssp_jax.train_state import KeySequence, seed_key


def abstract(make: Callable[[nnx.Rngs], nnx.Module]) -> nnx.Module:
    """The module that `make(rngs)` builds, with shapes for parameters."""
    return nnx.eval_shape(lambda: make(KeySequence(seed_key(0))))


def param_shapes(make: Callable[[nnx.Rngs], nnx.Module]) -> dict[str, tuple[int, ...]]:
    """Shapes of its parameters by path, 'stages/0/blocks/0/mlp_in/kernel'."""
    leaves = traverse_util.flatten_dict(nnx.to_pure_dict(nnx.state(abstract(make), nnx.Param)))
    return {"/".join(map(str, path)): leaf.shape for path, leaf in leaves.items()}
