"""What training changes: step, parameters, optimiser state; born on its devices."""

import dataclasses
from collections.abc import Callable, Sequence
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
        # A weakly typed leaf would be a strong one after the first update, and the step would
        # compile a second time.
        return jax.tree.map(lambda x: x.astype(x.dtype), nnx.to_pure_dict(params))

    return graphdef, init


def state_maker(
    init, tx: optax.GradientTransformation, mesh: Mesh
) -> tuple[Callable[[jax.Array], TrainState], TrainState, TrainState]:
    """How states of a model are made: (key -> new state, its shapes, its shardings).

    The state is computed directly into its sharding; shapes and shardings cost no memory.
    """

    def make(key: jax.Array) -> TrainState:
        params = init(key)
        return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))

    shapes = jax.eval_shape(make, jax.random.key(0))
    shardings = state_sharding(mesh, shapes)
    return jax.jit(make, out_shardings=shardings), shapes, shardings


def path_name(path: Sequence[Any]) -> str:
    """A leaf's path as text, 'encoder/stages/0/norm/scale', whether its keys are int or str."""
    return "/".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path)
