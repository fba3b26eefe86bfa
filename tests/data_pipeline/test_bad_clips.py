"""Clips that cannot be read: in training others take their place, in evaluation they are errors."""

import itertools
import logging

import numpy as np
import pytest
from tiny_clips import take

from ssp_jax.data.pipeline import eval_batches, train_batches
from ssp_jax.data.reader import ReadSpec
from ssp_jax.data.sources import ClipSource
from ssp_jax.errors import UserError
from ssp_jax.flow.estimators import make_estimator
from ssp_jax.flow.store import add_flow, open_flow

SPEC = ReadSpec(frame_size=16, label_size=16)


@pytest.fixture(scope="module")
def source(prepared):
    """Five whole clips and, last, two of which one second or another is broken."""
    parts = ("test", "damaged_frame", "damaged_labels")
    return ClipSource([(prepared, part) for part in parts])


def batches(source, **options):
    return train_batches(source, SPEC, batch_size=6, seed=3, **options)


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.clip, other.clip)
        np.testing.assert_array_equal(one.frames, other.frames)
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.log_mel, other.log_mel)


def test_others_take_their_place_whatever_reads_and_wherever_it_begins(source, caplog):
    with caplog.at_level(logging.WARNING, "ssp_jax"), batches(source, max_bad_clips=2) as whole:
        before = list(itertools.islice(whole, 4))
        state = whole.get_state()
        after = list(itertools.islice(whole, 12))
        assert whole.get_state() == {"next_batch": 16, "bad_clips": [5, 6]}
    assert all(batch.valid.all() for batch in (*before, *after))
    # What cannot be read is another clip's; a bad clip's other frames stay.
    for batch in (*before, *after):
        assert not np.any((batch.clip == 5) & (batch.second == 2))
        assert not np.any((batch.clip == 6) & (batch.second == 1))
    assert caplog.text.count("training clip left out") == 2
    assert "2 of at most 2" in caplog.text
    assert "frame 2: cannot be decoded" in caplog.text
    with batches(source, max_bad_clips=2, num_threads=1) as again:
        again.set_state(state)
        assert_same(itertools.islice(again, 12), after)
        assert again.get_state()["bad_clips"] == [5, 6]
    assert_same(take(batches(source, max_bad_clips=2, num_workers=1), 4), before)
    halves = [
        take(batches(source, max_bad_clips=2, process_index=i, process_count=2), 4) for i in (0, 1)
    ]
    joined = [np.concatenate([a.frames, b.frames]) for a, b in zip(*halves, strict=True)]
    np.testing.assert_array_equal(joined, [batch.frames for batch in before])


def test_one_more_than_allowed_is_an_error(source):
    with pytest.raises(UserError, match=r"clip -clip0, (frame 2|label map 1): cannot be decoded"):
        take(batches(source), 16)
    with pytest.raises(UserError, match=r"again\. 1 others were left out, as config\.data"):
        take(batches(source, max_bad_clips=1), 16)
    with pytest.raises(UserError, match="expected 0 or more"):
        batches(source, max_bad_clips=-1)


def test_where_too_few_are_left(prepared):
    alone = ClipSource([(prepared, "damaged_labels")])
    with pytest.raises(UserError, match="too few training clips"):
        take(batches(alone, max_bad_clips=9), 1)


def test_in_evaluation_each_is_an_error(source):
    with pytest.raises(UserError, match="cannot be decoded"):
        take(eval_batches(source, SPEC, batch_size=6), None)
    blank = take(eval_batches(source, SPEC, batch_size=6, blank_bad_clips=True), None)
    clips = np.concatenate([batch.clip for batch in blank])
    valid = np.concatenate([batch.valid for batch in blank])
    np.testing.assert_array_equal(np.unique(clips[clips >= 0], return_counts=True)[1], 5)
    assert set(clips[~valid & (clips >= 0)]) == {5, 6}


def test_flow_of_a_bad_clip_cannot_be_read(prepared):
    bad = ClipSource([(prepared, "damaged_frame")])
    estimator = make_estimator("dis", None)
    with pytest.raises(UserError, match="frame 2: cannot be decoded"):
        add_flow(bad, estimator, size=16, progress=False)
    add_flow(bad, estimator, size=16, note_bad_clips=True, progress=False)
    with pytest.raises(UserError, match=r"the stored flow of clip 0 .*frame 2: cannot be decoded"):
        open_flow(bad, "dis").read(0)
