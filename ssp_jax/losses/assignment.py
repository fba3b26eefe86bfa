"""Cheapest one-to-one assignments, many small problems at once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

# So many rows at most are assigned in turns that are written out: 55 of them.
_WRITTEN_OUT = 10


def assign(cost: Float[Array, "*n R C"]) -> tuple[Int[Array, "*n k"], Int[Array, "*n k"]]:
    """Return (row, column) of the k = min(R, C) pairs of least total cost, in any order."""
    if not 0 < min(cost.shape[-2:]) <= _WRITTEN_OUT:
        return _in_loops(cost)
    return jax.lax.platform_dependent(cost, cpu=_in_loops, tpu=_in_loops, default=_written_out)


def _in_loops(cost: Array) -> tuple[Array, Array]:
    call = optax.assignment.hungarian_algorithm
    for _ in range(cost.ndim - 2):
        call = jax.vmap(call)
    return call(cost)


def _written_out(cost: Array) -> tuple[Array, Array]:
    """Assign without a loop, whose every turn a GPU would have to ask the host for.

    The same algorithm, and the same sums, as optax's: row by row, with the shortest path that ends
    in a free column, which has at most as many turns as there are rows so far. Problems that are
    through wait for the others.
    """
    if cost.shape[-2] > cost.shape[-1]:
        column, row = _written_out(cost.swapaxes(-2, -1))
        return row, column
    lead, (rows, columns) = cost.shape[:-2], cost.shape[-2:]
    problems = cost.reshape(-1, rows, columns)
    number = len(problems)
    row_potential = jnp.zeros((number, rows), cost.dtype)
    column_potential = jnp.zeros((number, columns), cost.dtype)
    column_of = jnp.full((number, rows), -1)
    state = row_potential, column_potential, column_of
    for row in range(rows):
        state = _with_row(row, problems, *state)
    found = state[-1].reshape(*lead, rows)
    return jnp.broadcast_to(jnp.arange(rows).reshape(*[1] * len(lead), rows), found.shape), found


def _with_row(
    new: int,
    cost: Float[Array, "n R C"],
    row_potential: Float[Array, "n R"],
    column_potential: Float[Array, "n C"],
    column_of: Int[Array, "n R"],
) -> tuple[Array, Array, Array]:
    """Potentials and columns of the rows up to `new`, given those of the rows before it."""
    number, rows, columns = cost.shape
    each_row, each_column = np.arange(rows)[None], np.arange(columns)[None]
    owner = _owners(column_of[:, :new], columns)
    row = jnp.full((number, 1), new)
    in_tree = jnp.zeros((number, rows), bool)
    reached = jnp.zeros((number, columns), bool)
    least = jnp.full((number, columns), jnp.inf)
    turn_of = jnp.zeros((number, columns), row.dtype)
    active = jnp.ones((number, 1), bool)
    # Of each turn, the row that it looks from, and the columns of all rows if it ends the path.
    turns = [(row, column_of)]
    for turn in range(new + 1):
        here = each_row == row
        in_tree |= here & active
        of_row = jnp.where(here[..., None], cost, 0).sum(1)
        potential = jnp.where(here, row_potential, 0).sum(1, keepdims=True)
        lengths = jnp.where(reached, jnp.inf, of_row - potential - column_potential)
        nearer = (lengths < least) & active
        turn_of = jnp.where(nearer, turn, turn_of)
        least = jnp.where(nearer, lengths, least)
        candidates = jnp.where(reached, jnp.inf, least)
        step, column, before, following = _first_least(candidates, each_column, turn_of, owner)
        step = jnp.where(active, step, 0)
        row_potential = jnp.where(in_tree, row_potential + step, row_potential)
        column_potential = jnp.where(reached, column_potential - step, column_potential)
        least = jnp.where(reached, least, least - step)
        from_row = sum(jnp.where(before == i, one, 0) for i, (one, _) in enumerate(turns))
        flipped = sum(jnp.where(before == i, one, 0) for i, (_, one) in enumerate(turns))
        flipped = jnp.where(each_row == from_row, column, flipped)
        column_of = jnp.where(active, flipped, column_of)
        reached |= (each_column == column) & active
        row = following
        active &= following >= 0
        turns.append((row, flipped))
    return row_potential, column_potential, column_of


def _owners(column_of: Int[Array, "n r"], columns: int) -> Int[Array, "n C"]:
    """The row that has each column, -1 of a free one."""
    each = np.arange(columns)[None, None]
    row = np.arange(column_of.shape[1])[None, :, None]
    return jnp.where(column_of[..., None] == each, row, -1).max(1, initial=-1)


def _first_least(
    values: Float[Array, "n C"], *others: Int[Array, "n C"]
) -> tuple[Array, Array, Array, Array]:
    """The first least of each, (n, 1), its place (the first of the others), and the others' there.

    In one reduction.
    """

    def less(first, second):
        value, place = first[:2]
        other_value, other_place = second[:2]
        earlier = (value < other_value) | ((value == other_value) & (place < other_place))
        return tuple(jnp.where(earlier, a, b) for a, b in zip(first, second, strict=True))

    place = jnp.broadcast_to(others[0], values.shape).astype(jnp.int32)
    arrays = values, place, *(other.astype(jnp.int32) for other in others[1:])
    last = np.int32(np.iinfo(np.int32).max)
    starts = values.dtype.type(np.inf), last, np.int32(-1), np.int32(-1)
    found = jax.lax.reduce(arrays, starts, less, [1])
    return tuple(one[:, None] for one in found)
