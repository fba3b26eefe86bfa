"""Both ways of counting: scattered additions and one-hot products (TPU)."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from ssp_jax import metrics_counts
from ssp_jax.metrics_counts import joint_histogram


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize(("num_rows", "num_columns"), [(71, 71), (256, 2), (1, 3)])
def test_joint_histogram(monkeypatch, platform, num_rows, num_columns):
    def choose(*args, default, **branches):
        return branches.get(platform, default)(*args)

    monkeypatch.setattr(metrics_counts.jax.lax, "platform_dependent", choose)
    rng = np.random.default_rng(0)
    # Indices beyond either end must vanish, not wrap into another cell or frame.
    rows = rng.integers(-2, num_rows + 2, (3, 5000))
    columns = rng.integers(-2, num_columns + 2, (3, 5000))
    counts = jax.jit(joint_histogram, static_argnums=(2, 3))(rows, columns, num_rows, num_columns)
    assert counts.dtype == np.int32
    for frame in range(3):
        expected = np.zeros((num_rows, num_columns), int)
        for row, column in zip(rows[frame], columns[frame], strict=True):
            if 0 <= row < num_rows and 0 <= column < num_columns:
                expected[row, column] += 1
        np.testing.assert_array_equal(counts[frame], expected)


def test_large_counts_are_exact_in_the_one_hot_product(monkeypatch):
    def choose(*args, default, tpu):
        return tpu(*args)

    monkeypatch.setattr(metrics_counts.jax.lax, "platform_dependent", choose)
    rows = np.zeros((1, 512 * 512), np.uint8)
    rows[0, 0] = 1
    counts = joint_histogram(rows, np.ones_like(rows), 2, 2)
    np.testing.assert_array_equal(counts[0], [[0, 512 * 512 - 1], [0, 1]])


SHARDED = """
import jax
jax.config.update("jax_num_cpu_devices", 4)
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from ssp_jax.metrics_binary import binary_frame_stats
from ssp_jax.metrics_semantic import semantic_frame_stats

rng = np.random.default_rng(0)
pred, target = rng.integers(0, 9, (2, 8, 16, 16)).astype(np.uint8)
logits, valid = rng.normal(size=(8, 1, 16, 16)).astype(np.float32), np.arange(8) < 7
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
frames = NamedSharding(mesh, PartitionSpec("data"))
for stats, args in (
    (lambda *a: semantic_frame_stats(*a, num_classes=9), (pred, target, valid)),
    (lambda *a: binary_frame_stats(*a, rule="logit"), (logits, target, valid)),
):
    sharded = jax.device_put(args, frames)
    jax.tree.map(np.testing.assert_array_equal, stats(*args), stats(*sharded))
    program = jax.jit(stats).lower(*sharded).compile().as_text()
    assert "all-gather" not in program and "all-reduce" not in program
"""


def test_frames_sharded_over_devices_are_counted_where_they_lie():
    done = subprocess.run(
        [sys.executable, "-c", SHARDED],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
