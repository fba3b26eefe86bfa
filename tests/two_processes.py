"""One of two processes: python -m tests.two_processes NUMBER PORT FOLDER, for test_processes.py.

Takes up the checkpoint in FOLDER/one, writes its state into FOLDER/two, and prints what it saw.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssp_jax.batch import AVBatch, fake_batch
from ssp_jax.checkpoints import Checkpoints
from ssp_jax.evaluators.segmentation import SegmentationEvaluator
from ssp_jax.processes import gather_rows, is_first, start
from ssp_jax.protocols import get_protocol
from ssp_jax.sharding import all_rows, make_mesh, own_rows, put_batch
from ssp_jax.train_state import state_maker
from ssp_jax.writers import MetricsWriter

# Clips of five frames; the padded slots all come to process 1.
BATCH = fake_batch(8, label_size=24)
BATCH.valid[3:] = BATCH.annotated[3:] = False
STEP = 7


def share(batch: AVBatch, number: int) -> AVBatch:
    """What process `number` reads of a batch."""
    return jax.tree.map(lambda x: x[number * len(x) // 2 : (number + 1) * len(x) // 2], batch)


def states(mesh):
    """How states are made of which fsdp splits one array."""

    def init(key):
        return {"wide": jax.random.normal(key, (128, 256)), "narrow": jnp.zeros(3)}

    return state_maker(init, optax.adam(1e-3), frozenset(["wide", "narrow"]), mesh)


def evaluator() -> SegmentationEvaluator:
    """Of two classes."""
    return SegmentationEvaluator(get_protocol("official"), binary=False, num_classes=2)


def scores_of(placed: AVBatch) -> jax.Array:
    """Class scores, in the place of a network's."""
    wrong = jnp.roll(placed.labels, 5, axis=1)
    return jax.nn.one_hot(wrong, 2, axis=1)


def main(number: int, port: int, folder: Path) -> None:
    """See the module."""
    start(f"localhost:{port}", 2, number)
    mesh = make_mesh(fsdp=2)

    count = 3 * number  # none of process 0
    rows = {"wide": 2**40 + np.arange(count), "pair": np.full((count, 2), 0.1)}
    rows = gather_rows(rows)
    np.testing.assert_array_equal(rows["wide"], 2**40 + np.arange(3))
    np.testing.assert_array_equal(rows["pair"], np.full((3, 2), 0.1))

    own = share(BATCH, number)
    placed = put_batch(mesh, own)
    doubled = 2 * placed.labels
    np.testing.assert_array_equal(own_rows(placed, doubled), 2 * own.labels)
    np.testing.assert_array_equal(all_rows(placed, doubled), 2 * BATCH.labels)
    state = evaluator().score(scores_of(placed), placed, own)
    print("scores", dict(evaluator().results(state)), flush=True)

    maker = states(mesh)
    one, two = (Checkpoints(folder / name) for name in ("one", "two"))
    taken, progress = one.restore(lambda step: maker)
    expected = maker.new(jax.random.key(1)).params
    assert not taken.params["wide"].is_fully_addressable
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: (a == b).all(), taken.params, expected)))
    two.save_best(STEP, taken.params, 0.5)
    two.save(taken, {"next_batch": progress["next_batch"]})
    two.close()
    one.close()
    writer = MetricsWriter(folder / "metrics")
    writer.write(STEP, {"process": float(jax.process_index())})
    writer.close()
    print("done", jax.process_count(), is_first(), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
