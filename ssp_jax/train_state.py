"""What training changes: step, parameters, optimiser state; born on its devices."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from ssp_jax.joined_leaves import ALONE, JoinedLeaves
from ssp_jax.sharding import state_sharding


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """A pytree of plain dicts. `params` has the model's parameters by path.

    `opt_state` is of the arrays that the trained parameters are joined to, see `JoinedLeaves`.
    """

    step: jax.Array
    params: dict[str, Any]
    opt_state: Any

    @property
    def number(self) -> int:
        """The step as a number of the host, which waits for it."""
        return int(jax.device_get(self.step))


@functools.partial(jax.jit, static_argnums=0)
def seed_key(seed: int) -> jax.Array:
    """Return `jax.random.key(seed)`, of a program that knows the seed.

    By itself JAX would send the number to the device, which its transfer guard may forbid.
    """
    return jax.random.key(seed)


class KeySequence:
    """In the place of `nnx.Rngs`: keys by a count on the host.

    Under a trace every draw from an `nnx.Rngs` costs as much as all draws before it together: 11
    seconds at the real size, each time that the parameters' shapes are asked for.
    """

    def __init__(self, key: jax.Array):
        self._key, self._count = key, 0

    def params(self) -> jax.Array:
        """The next key."""
        self._count += 1
        return jax.random.fold_in(self._key, self._count)


def split_model(make_model) -> tuple[nnx.GraphDef, Any]:
    """The model's structure and a jittable function key -> params.

    Args:
      make_model: rngs (`KeySequence`) -> module whose whole state is `nnx.Param`.

    Raises:
      ValueError: the module has other state, which the trainer would lose.
    """
    graphdef, _, rest = nnx.split(
        nnx.eval_shape(lambda: make_model(KeySequence(seed_key(0)))), nnx.Param, ...
    )
    if jax.tree.leaves(rest):
        raise ValueError(f"the model has state that is not nnx.Param: {rest}")

    def init(key: jax.Array) -> dict[str, Any]:
        _, params, _ = nnx.split(make_model(KeySequence(key)), nnx.Param, ...)
        # A weakly typed leaf would be a strong one after the first update, and the step would
        # compile a second time.
        return jax.tree.map(lambda x: x.astype(x.dtype), nnx.to_pure_dict(params))

    return graphdef, init


@dataclasses.dataclass(frozen=True)
class StateMaker:
    """How states of one model under one optimiser are made.

    The state is computed directly into its sharding; shapes and shardings cost no memory.

    Attributes:
      new: key -> state before the first step. restart: (step, params) -> the state that goes on
        from given parameters with a fresh optimiser.
      drawn: (key, path names) -> the parameters of these names in `new(key)`, and no others: all
        of Swin-B's take a CPU 35 s to compile, and 2.4 GB beside them.
      shapes, shardings: of a state.
    """

    new: Callable[[jax.Array], TrainState]
    restart: Callable[[jax.Array, dict], TrainState]
    drawn: Callable[[jax.Array, Sequence[str]], dict[str, jax.Array]]
    shapes: TrainState
    shardings: TrainState


def state_maker(
    init,
    tx: optax.GradientTransformation,
    trained: frozenset[str],
    mesh: Mesh,
    joined: JoinedLeaves = ALONE,
) -> StateMaker:
    """See `StateMaker`; `init` is key -> params, `trained` as in `split_trained`.

    `tx` is of the arrays that `joined` makes of the trained leaves.
    """

    def restart(step: jax.Array, params: dict) -> TrainState:
        leaves, _ = split_trained(params, trained)
        return TrainState(step, params, tx.init(joined.join(leaves)))

    def new(key: jax.Array) -> TrainState:
        return restart(jnp.zeros((), jnp.int32), init(key))

    def drawn(key: jax.Array, names: Sequence[str]) -> dict[str, jax.Array]:
        wanted = frozenset(names)
        places, _ = split_trained(shardings.params, wanted)
        return jax.jit(lambda key: split_trained(init(key), wanted)[0], out_shardings=places)(key)

    shapes = jax.eval_shape(new, seed_key(0))
    shardings = state_sharding(mesh, shapes)
    return StateMaker(
        jax.jit(new, out_shardings=shardings),
        jax.jit(restart, out_shardings=shardings),
        drawn,
        shapes,
        shardings,
    )


def split_trained(
    params: Mapping, trained: frozenset[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(trained, frozen) leaves by path name: gradients and moments exist for the first only."""
    flat = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    return (
        {name: leaf for name, leaf in flat.items() if name in trained},
        {name: leaf for name, leaf in flat.items() if name not in trained},
    )


def replace_leaves(params: Mapping, leaves: Mapping[str, Any]) -> dict[str, Any]:
    """`params` with the leaves of these path names replaced."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaves.get(path_name(path), leaf), params
    )


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """Return (path name, leaf) of every leaf of a tree, in its order."""
    return [(path_name(path), x) for path, x in jax.tree_util.tree_leaves_with_path(tree)]


def path_name(path: Sequence[Any]) -> str:
    """A leaf's path as text, 'encoder/stages/0/norm/scale', of whatever kind its keys are."""
    parts = (getattr(key, "key", getattr(key, "idx", getattr(key, "name", key))) for key in path)
    return "/".join(map(str, parts))
