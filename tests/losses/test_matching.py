import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from ssp_jax.errors import UserError
from ssp_jax.losses import assignment, matching

QUERIES, TARGETS = 7, 4


@pytest.fixture(scope="module")
def match():
    return jax.jit(matching.match)


def test_the_assignment_is_scipys_whatever_is_padded(match):
    rng = np.random.default_rng(0)
    cost = rng.normal(0, 10, (6, 5, QUERIES, TARGETS)).astype(np.float32)
    real = np.arange(TARGETS) < rng.integers(0, TARGETS + 1, (6, 5, 1))
    query, target, matched = match(jnp.asarray(cost), jnp.asarray(real))
    for index in np.ndindex(6, 5):
        count = real[index].sum()
        rows, columns = linear_sum_assignment(cost[index][:, :count])
        np.testing.assert_array_equal(query[index][:count], rows)
        np.testing.assert_array_equal(target[index][:count], columns)
        np.testing.assert_array_equal(matched[index], np.arange(TARGETS) < count)
        assert len(set(np.asarray(query[index]))) == TARGETS


def test_broken_costs_are_taken_last(match):
    cost = np.full((1, 1, QUERIES, TARGETS), np.nan, np.float32)
    cost[0, 0, 1] = np.inf
    cost[0, 0, 2:6] = 1 - np.eye(TARGETS)
    query, target, matched = match(jnp.asarray(cost), jnp.ones((1, 1, TARGETS), bool))
    np.testing.assert_array_equal(query[0, 0], [2, 3, 4, 5])
    np.testing.assert_array_equal(target[0, 0], [0, 1, 2, 3])
    assert matched.all()


@pytest.mark.parametrize("shape", [(7, 4), (100, 8), (3, 2), (5, 5), (4, 9), (3, 1)], ids=str)
def test_turns_that_are_written_out_assign_as_the_loops_do(shape):
    rng = np.random.default_rng(2)
    cost = rng.normal(0, 10, (3, 40, *shape)).astype(np.float32)
    cost[1] = rng.integers(0, 3, cost[1].shape)  # many equal ones
    cost[2] *= np.arange(shape[1]) < rng.integers(0, shape[1] + 1, (40, 1, 1))  # padded

    def pairs(way):
        row, column = map(np.asarray, jax.jit(way)(cost))
        order = np.argsort(row, axis=-1)
        return np.take_along_axis(row, order, -1), np.take_along_axis(column, order, -1)

    ours = pairs(assignment._written_out)
    np.testing.assert_array_equal(ours, pairs(assignment._in_loops))
    found = (x.reshape(120, -1) for x in ours)
    for one, *pair in zip(cost.reshape(-1, *shape), *found, strict=True):
        best = linear_sum_assignment(one)
        np.testing.assert_allclose(one[tuple(pair)].sum(), one[best].sum(), rtol=1e-5, atol=1e-4)


def test_too_few_queries_are_named():
    with pytest.raises(UserError, match="3 queries cannot be matched to up to 4 targets"):
        matching.match(jnp.zeros((1, 3, 4)), jnp.ones((1, 4), bool))


def test_the_cost_is_the_written_formula():
    rng = np.random.default_rng(1)
    x = rng.normal(0, 3, (2, 3, 11)).astype(np.float32)
    t = rng.random((2, 2, 11)).astype(np.float32)
    logits = rng.normal(0, 1, (2, 3, 5)).astype(np.float32)
    labels = np.array([[0, 3], [2, -1]])
    cost = jax.jit(matching.matching_cost)(*map(jnp.asarray, (x, logits, t, labels)))
    p = 1 / (1 + np.exp(-x))
    softmax = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    for n, q, m in [(0, 0, 0), (0, 2, 1), (1, 1, 0)]:
        a, b = p[n, q], t[n, m]
        bce = -(b * np.log(a) + (1 - b) * np.log(1 - a)).mean()
        dice = 1 - (2 * (a * b).sum() + 1) / (a.sum() + b.sum() + 1)
        expected = 5 * bce + 5 * dice - 2 * softmax[n, q, labels[n, m]]
        np.testing.assert_allclose(cost[n, q, m], expected, rtol=1e-4)
