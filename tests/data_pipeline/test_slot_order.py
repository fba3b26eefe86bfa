import pickle

import numpy as np
import pytest

from ssp_jax.data.order import EvalOrder, TrainOrder
from ssp_jax.errors import UserError

COUNTS = np.array([1, 5, 0, 10, 1, 2])


def slots(order, start, stop):
    return [
        (visit.epoch, visit.clip, second)
        for visit in order.visits(start, stop)
        for second in visit.seconds
    ]


def test_each_epoch_holds_every_frame_once_in_its_own_order():
    order = TrainOrder(COUNTS, seed=3)
    assert order.epoch_size == 19
    expected = sorted((clip, s) for clip, count in enumerate(COUNTS) for s in range(count))
    epochs = [slots(order, 19 * e, 19 * e + 19) for e in range(4)]
    for number, epoch in enumerate(epochs):
        assert {e for e, _, _ in epoch} == {number}
        assert sorted((clip, s) for _, clip, s in epoch) == expected
    assert len({tuple((c, s) for _, c, s in epoch) for epoch in epochs}) > 1
    assert slots(TrainOrder(COUNTS, seed=4), 0, 19) != epochs[0]


@pytest.mark.parametrize("size", [1, 3, 4, 16, 50])
def test_batches_cut_one_stream_without_gaps(size):
    order = TrainOrder(COUNTS, seed=0, per_visit=3)
    stream = slots(order, 0, 200)
    parts = [slots(order, start, start + size) for start in range(0, 200, size)]
    assert all(len(part) == size for part in parts)
    assert [slot for part in parts for slot in part][:200] == stream


def test_frames_per_visit_are_random_but_once_an_epoch():
    order = TrainOrder(COUNTS, seed=0, per_visit=3)
    assert order.epoch_size == 1 + 3 + 3 + 1 + 2
    seen = set()
    for epoch in range(30):
        frames = slots(order, 10 * epoch, 10 * epoch + 10)
        assert len(set(frames)) == 10
        chosen = [s for _, clip, s in frames if clip == 3]
        assert chosen == sorted(chosen)
        seen.update(chosen)
    assert seen == set(range(10))


def test_the_order_survives_pickling():
    order = TrainOrder(COUNTS, seed=5)
    assert slots(pickle.loads(pickle.dumps(order)), 7, 60) == slots(order, 7, 60)


def test_nothing_to_train_on_is_said():
    with pytest.raises(UserError, match="annotated"):
        TrainOrder(np.zeros(3, int), seed=0)
    with pytest.raises(UserError, match="frames_per_clip"):
        TrainOrder(COUNTS, seed=0, per_visit=0)


def test_evaluation_visits_all_in_order():
    order = EvalOrder(COUNTS)
    expected = [(0, clip, s) for clip, count in enumerate(COUNTS) for s in range(count)]
    assert slots(order, 0, 19) == expected
    assert slots(order, 4, 12) + slots(order, 12, 30) == expected[4:]
    assert slots(order, 19, 24) == []
