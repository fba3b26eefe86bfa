"""What training changes: step, parameters, optimiser state; born on its devices."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from ssp_jax.sharding import state_sharding


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """A pytree of plain dicts. `params` has the model's parameters by path."""

    step: jax.Array
    params: dict[str, Any]
    opt_state: Any


def split_model(make_model) -> tuple[nnx.GraphDef, Any]:
    """The model's structure and a jittable function key -> params.

    Args:
      make_model: rngs -> module whose whole state is `nnx.Param`.

    Raises:
      ValueError: the module has other state, which the trainer would lose.
    """
    graphdef, _, rest = nnx.split(nnx.eval_shape(lambda: make_model(nnx.Rngs(0))), nnx.Param, ...)
    if jax.tree.leaves(rest):
        raise ValueError(f"the model has state that is not nnx.Param: {rest}")

    def init(key: jax.Array) -> dict[str, Any]:
        _, params, _ = nnx.split(make_model(nnx.Rngs(key)), nnx.Param, ...)
        return nnx.to_pure_dict(params)

    return graphdef, init


def create_state(
    init, tx: optax.GradientTransformation, mesh: Mesh, key: jax.Array
) -> tuple[TrainState, TrainState]:
    """A new state, computed directly into its sharding, and the shardings as a tree."""

    def make(key: jax.Array) -> TrainState:
        params = init(key)
        return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))

    shardings = state_sharding(mesh, jax.eval_shape(make, key))
    return jax.jit(make, out_shardings=shardings)(key), shardings
