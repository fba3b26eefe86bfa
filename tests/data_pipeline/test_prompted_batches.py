"""What prompts a network, in batches: references, flow masks, texts, visual tokens."""

import dataclasses
import functools

import numpy as np
from tiny_clips import CLASS_NAMES, SOUND_NAMES, take

from ssp_jax.batch import BACKBONE, AVBatch, fake_batch
from ssp_jax.data.beside import Beside
from ssp_jax.data.frame_cache import FrameCache
from ssp_jax.data.mask_store import open_store
from ssp_jax.data.pipeline import eval_batches, train_batches
from ssp_jax.data.reader import FrameReader, ReadSpec
from ssp_jax.data.transforms import Augment

SPEC = ReadSpec(
    frame_size=16,
    label_size=14,
    sound_names=SOUND_NAMES,
    class_names=CLASS_NAMES,
    reference=True,
)


PROMPTED = dataclasses.replace(SPEC, flow_mask=True, text_length=4)
WITH_TOKENS = dataclasses.replace(SPEC, visual_tokens=True)


class FlowMasks:
    """Every pixel of a frame tells its clip and second."""

    def read(self, clip):
        return np.stack([np.full((7, 7), 10 * clip + s + 1, np.uint8) for s in range(10)])


def texts_of(source):
    """Tokens that tell their clip, and by their type whether it is mirrored."""
    rows = np.arange(len(source) + 1, dtype=np.int32)[:, None] + np.zeros((2, 1, 4), np.int32)
    types = 0 * rows + np.array([0, 1], np.int32)[:, None, None]
    return {"text_ids": rows, "text_types": types, "text_mask": rows < len(source)}


class Tokens:
    """Every number tells clip and annotated second."""

    shape = (2, 2, 3)

    def __init__(self, source):
        self.counts = source.table.num_annotated

    def read(self, clip):
        told = 10 * clip + 1 + np.arange(self.counts[clip], dtype=np.float16)
        return np.broadcast_to(told[:, None, None, None], (len(told), *self.shape))


def test_dtypes_are_those_of_the_contract(train):
    beside = Beside(flow_masks=FlowMasks(), texts=texts_of(train), visual_tokens=Tokens(train))
    spec = dataclasses.replace(PROMPTED, visual_tokens=True)
    batch = take(train_batches(train, spec, batch_size=2, seed=0, beside=beside), 1)[0]
    fake = fake_batch(reference=True, flow_mask=True, text_length=4, visual_tokens=(2, 2, 3))
    for field in dataclasses.fields(AVBatch):
        if field.name in BACKBONE:  # stand for frames, see test_kept_features.py
            continue
        expected = getattr(fake, field.name).dtype
        assert getattr(batch, field.name).dtype == expected, field.name


def stored_masks(source, folder, first=1):
    """A store in which every pixel tells its clip and second."""
    store = open_store(folder, {}, len(source), SPEC.label_size)
    counts = source.table.num_annotated
    store.write(
        np.stack([np.full((14, 14), 10 * clip + s + first, np.uint8) for s in range(count)])
        for clip, count in enumerate(counts)
    )
    return store


def test_references_are_the_truth_the_prediction_or_empty(train, tmp_path):
    masks = stored_masks(train, tmp_path / "masks")
    make = functools.partial(
        train_batches, train, SPEC, batch_size=8, seed=0, beside=Beside(masks={"own": masks})
    )
    for batch in take(make(references=(1.0, 0.0), augment=Augment(flip=0.5, scale=(0.7, 1.5))), 5):
        np.testing.assert_array_equal(batch.reference, 255 * (batch.labels > 0))
    for batch in take(make(references=(0.0, 1.0)), 5):
        expected = 10 * batch.clip + batch.second + 1
        np.testing.assert_array_equal(batch.reference[:, 0, 0], expected)
    for batch in take(make(references=(0.0, 0.0)), 2):
        assert not batch.reference.any()
    mixed = take(make(references=(0.3, 0.3)), 10)
    kinds = {int(prompt.max()) for batch in mixed for prompt in batch.reference}
    assert {0, 255} < kinds
    # Nothing sounds in silence, and what stage 1 predicted by another sound is not asked.
    other = make(references=(0.5, 0.5), augment=Augment(silence=1.0))
    assert not any(batch.reference.any() for batch in take(other, 3))


def test_a_replaced_sound_brings_what_stage_1_predicts_by_it(train, tmp_path, monkeypatch):
    monkeypatch.setattr(FrameReader, "_knows_visible", False)
    masks = {
        kind: stored_masks(train, tmp_path / kind, first=first)
        for kind, first in (("own", 1), ("silence", 81), ("foreign", 161))
    }
    augment = Augment(silence=0.3, foreign_sound=0.3)
    made = train_batches(
        *(train, SPEC),
        batch_size=8,
        seed=3,
        beside=Beside(masks=masks),
        references=(0.0, 1.0),
        augment=augment,
    )
    heard = take(eval_batches(train, SPEC, batch_size=34, sounds="foreign", seed=3), 1)[0]
    kinds = set()
    for batch in take(made, 20):
        first = batch.reference[:, 0, 0].astype(int) - 10 * batch.clip - batch.second
        kinds |= set(first.tolist())
        np.testing.assert_array_equal(batch.labels.any(axis=(1, 2)), first == 1)
        # The same foreign sound as stage 1 heard.
        for slot in np.flatnonzero(first == 161):
            same = (heard.clip == batch.clip[slot]) & (heard.second == batch.second[slot])
            np.testing.assert_array_equal(batch.log_mel[slot], heard.log_mel[same][0])
    assert kinds == {1, 81, 161}


def test_flow_masks_and_texts_are_those_of_the_clip(train, evaluated):
    of_train, of_test = (
        Beside(flow_masks=FlowMasks(), texts=texts_of(source)) for source in (train, evaluated)
    )
    # Two sources' maps are kept apart in one cache.
    cache = FrameCache(2**20)
    for _ in range(2):
        for batch in (
            *take(
                train_batches(train, PROMPTED, batch_size=8, seed=0, beside=of_train, cache=cache),
                3,
            ),
            *take(eval_batches(evaluated, PROMPTED, batch_size=8, beside=of_test, cache=cache), 3),
        ):
            valid = batch.valid
            expected = 10 * batch.clip + batch.second + 1
            np.testing.assert_array_equal(batch.flow_mask[valid, 0, 0], expected[valid])
            np.testing.assert_array_equal(batch.text_ids[valid, 0], batch.clip[valid])
            assert batch.text_mask[valid].all()
            assert not batch.text_types.any()
            assert not batch.text_mask[~valid].any()
    # The flow mask moves with the frame, and texts say left for right.
    moved = train_batches(
        train,
        PROMPTED,
        batch_size=8,
        seed=0,
        beside=of_train,
        augment=Augment(flip=1.0, scale=(0.5, 0.5)),
    )
    (batch,) = take(moved, 1)
    assert all((mask == 0).any() for mask in batch.flow_mask)
    assert batch.text_types.all()


def test_visual_tokens_are_those_of_the_frame(train, evaluated):
    cache = FrameCache(2**20)
    for make, source in (
        (functools.partial(train_batches, seed=0, annotated_only=False), train),
        (eval_batches, evaluated),
    ):
        beside = Beside(visual_tokens=Tokens(source))
        with make(source, WITH_TOKENS, batch_size=8, beside=beside, cache=cache) as batches:
            for _ in range(4):
                batch = next(batches)
                expected = np.where(batch.annotated, 10 * batch.clip + batch.second + 1, 0)
                found = batch.visual_tokens.reshape(8, -1)
                np.testing.assert_array_equal(found, np.tile(expected[:, None], 12))
    assert not batch.valid.all()
    assert np.asarray(batch.prompts()["visual_tokens"]).dtype == np.float32


def test_a_clip_whose_sound_is_replaced_keeps_its_texts(train):
    beside = Beside(flow_masks=FlowMasks(), texts=texts_of(train))
    make = functools.partial(train_batches, train, PROMPTED, batch_size=8, seed=0, beside=beside)
    for batch in take(make(augment=Augment(silence=1.0)), 2):
        # As in evaluation: else "no texts" would tell that nothing sounds.
        np.testing.assert_array_equal(batch.text_ids[:, 0], batch.clip)
        assert batch.flow_mask.any()
    # What the network itself guesses is about the sound that it hears.
    for batch in take(make(augment=Augment(silence=1.0), references=(0.0, 1.0)), 2):
        assert batch.own_reference.all()


def test_evaluation_is_prompted_by_the_prediction_alone(evaluated, tmp_path):
    beside = Beside(masks={"own": stored_masks(evaluated, tmp_path / "masks")})
    for batch in take(
        eval_batches(evaluated, SPEC, batch_size=8, beside=beside, reference="stage1"), 20
    ):
        expected = np.where(batch.valid, 10 * batch.clip + batch.second + 1, 0)
        np.testing.assert_array_equal(batch.reference[:, 0, 0], expected)
    for batch in take(eval_batches(evaluated, SPEC, batch_size=8), 20):
        assert not batch.reference.any()
