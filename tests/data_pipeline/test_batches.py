import dataclasses

import numpy as np
import pytest
from tiny_clips import (
    CLASS_NAMES,
    SOUND_NAMES,
    frame_colour,
    labels_of,
    objects_of,
    take,
    waveform_of,
)

from ssp_jax.batch import AVBatch
from ssp_jax.data.frame_cache import FrameCache
from ssp_jax.data.log_mel import SILENCE, log_mel_windows
from ssp_jax.data.pipeline import eval_batches, frames_per_epoch, train_batches
from ssp_jax.data.reader import FrameReader, ReadSpec
from ssp_jax.data.sources import ClipSource
from ssp_jax.data.transforms import Augment, resize_labels
from ssp_jax.errors import UserError

SPEC = ReadSpec(
    frame_size=16,
    label_size=14,
    sound_names=SOUND_NAMES,
    class_names=CLASS_NAMES,
    reference=True,
)
ALL_AUGMENTED = Augment(
    flip=0.5, scale=(0.7, 1.5), brightness=0.2, hue=0.1, foreign_sound=0.3, silence=0.2, noise=0.1
)


def assert_same(batch: AVBatch, other: AVBatch):
    for field in dataclasses.fields(AVBatch):
        one, two = getattr(batch, field.name), getattr(other, field.name)
        if one is None and two is None:
            continue
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two, err_msg=field.name)


def assert_different(batch: AVBatch, other: AVBatch):
    assert not np.array_equal(batch.frames, other.frames)


def assert_true_content(batch: AVBatch):
    """Each valid slot holds its own clip's frame, labels, window and classes."""
    for n in np.flatnonzero(batch.valid):
        clip, second = int(batch.clip[n]), int(batch.second[n])
        assert batch.frames[n].reshape(-1, 3).tolist() == [list(frame_colour(clip, second))] * 256
        labels = resize_labels(labels_of(clip, second), 14)
        if not batch.annotated[n]:
            labels = np.zeros_like(labels)
        np.testing.assert_array_equal(batch.labels[n], labels)
        windows = log_mel_windows(waveform_of(clip, 5 if clip < 4 else 10))
        np.testing.assert_array_equal(batch.log_mel[n], windows[second])


def test_training_batches_are_full_and_true(train):
    assert frames_per_epoch(train) == 34
    for batch in take(train_batches(train, SPEC, batch_size=8, seed=0), 10):
        assert batch.frames.shape == (8, 16, 16, 3)
        assert batch.labels.shape == (8, 14, 14)
        assert batch.log_mel.shape == (8, 96, 64)
        assert batch.sounds.shape == (8, 4)
        assert batch.valid.all()
        assert batch.annotated.all()
        assert_true_content(batch)


def test_an_epoch_trains_every_annotated_frame_once(train):
    batches = take(train_batches(train, SPEC, batch_size=17, seed=0), 4)
    for epoch in (batches[:2], batches[2:]):
        frames = sorted(
            pair for batch in epoch for pair in zip(batch.clip, batch.second, strict=True)
        )
        assert frames == [(c, 0) for c in range(4)] + [(c, s) for c in (4, 5, 6) for s in range(10)]
    assert batches[0].clip.tolist() != batches[2].clip.tolist()


def test_frames_without_labels_on_request(train):
    assert frames_per_epoch(train, annotated_only=False) == 50
    options = {"batch_size": 25, "seed": 0, "annotated_only": False}
    batches = take(train_batches(train, SPEC, **options), 2)
    assert sum(batch.annotated.sum() for batch in batches) == 34
    for batch in batches:
        assert_true_content(batch)


def test_binary_labels(train):
    spec = dataclasses.replace(SPEC, binary=True)
    plain = take(train_batches(train, SPEC, batch_size=8, seed=0), 1)[0]
    binary = take(train_batches(train, spec, batch_size=8, seed=0), 1)[0]
    np.testing.assert_array_equal(binary.labels, plain.labels > 0)


def test_sounds_by_category_and_by_labels(train):
    for batch in take(train_batches(train, SPEC, batch_size=17, seed=0), 2):
        names = [{SOUND_NAMES[i] for i in np.flatnonzero(row)} for row in batch.sounds]
        told = dict(zip(batch.clip.tolist(), names, strict=True))
        expected = [{"guitar"}, {"dog", "guitar"}, {"cat"}, set(), {"man", "dog"}]
        assert all(told[clip] == expected[clip % 5] for clip in told)
        assert (batch.sounds_known == (batch.clip % 5 != 3)).all()
    spec = dataclasses.replace(SPEC, sounds_from="labels")
    for batch in take(train_batches(train, spec, batch_size=17, seed=0), 2):
        np.testing.assert_array_equal(batch.sounds.argmax(1), (batch.clip + batch.second) % 4)
        assert (batch.sounds.sum(1) == 1).all()
        assert batch.sounds_known.all()
    unlabelled = take(train_batches(train, spec, batch_size=50, seed=0, annotated_only=False), 1)[0]
    np.testing.assert_array_equal(unlabelled.sounds_known, unlabelled.annotated)


def test_augmentation_off_is_the_default_and_on_is_repeatable(train):
    plain = take(train_batches(train, SPEC, batch_size=8, seed=1), 3)
    off = take(train_batches(train, SPEC, batch_size=8, seed=1, augment=Augment()), 3)
    on = take(train_batches(train, SPEC, batch_size=8, seed=1, augment=ALL_AUGMENTED), 3)
    again = take(train_batches(train, SPEC, batch_size=8, seed=1, augment=ALL_AUGMENTED), 3)
    for a, b, c, d in zip(plain, off, on, again, strict=True):
        assert_same(a, b)
        assert_same(c, d)
        assert_different(b, c)


def test_a_clip_is_varied_alike_in_all_its_frames_and_anew_in_each_epoch(train):
    # Batches of 3 cut the clips of 10 frames; the labels' left half shows the transform.
    options = {"batch_size": 3, "seed": 0, "augment": Augment(flip=0.5, scale=(0.4, 2.0))}
    batches = take(train_batches(train, SPEC, **options), 34)
    clips = np.concatenate([batch.clip for batch in batches])
    shapes = np.concatenate([batch.labels > 0 for batch in batches])
    for clip in (4, 5, 6):
        epochs = np.split(shapes[clips == clip], 3)  # 102 slots are 3 epochs of 34
        assert all((epoch == epoch[0]).all() for epoch in epochs)
        assert len({epoch[0].tobytes() for epoch in epochs}) > 1


@pytest.mark.parametrize("knows_visible", [False, True])
def test_foreign_sound_leaves_nothing_that_sounds(train, knows_visible, monkeypatch):
    monkeypatch.setattr(FrameReader, "_knows_visible", knows_visible)
    batches = take(
        train_batches(train, SPEC, batch_size=34, seed=0, augment=Augment(foreign_sound=1.0)), 2
    )
    own = [take(train_batches(train, SPEC, batch_size=34, seed=0), 2)][0]
    # Clip 3's classes are unknown, so it keeps its sound and labels; so do clips that show all
    # classes, once that is known.
    foreign = (0, 2) if knows_visible else (0, 1, 2, 4, 5, 6)
    for batch, plain in zip(batches, own, strict=True):
        np.testing.assert_array_equal(batch.frames, plain.frames)
        changed = (batch.log_mel != plain.log_mel).any(axis=(1, 2))
        np.testing.assert_array_equal(changed, np.isin(batch.clip, foreign))
        assert not batch.labels[changed].any()
        assert batch.labels[~changed].any(axis=(1, 2)).all()
        assert batch.annotated.all()
        assert not (batch.sounds * plain.sounds)[changed].any()
        assert batch.sounds[changed].any(axis=1).all()


def test_a_foreign_sound_is_off_screen(train):
    (batch,) = take(
        train_batches(train, SPEC, batch_size=34, seed=0, augment=Augment(foreign_sound=1.0)), 1
    )
    reader = FrameReader(train, SPEC)
    for clip, sounds, labels in zip(batch.clip, batch.sounds, batch.labels, strict=True):
        if not labels.any():
            assert not (sounds * reader.visible(int(clip))).any()


def test_what_is_visible_stays_whatever_is_heard(train):
    spec = dataclasses.replace(SPEC, labels_from="objects")
    (batch,) = take(
        train_batches(train, spec, batch_size=34, seed=0, augment=Augment(silence=1.0)), 1
    )
    assert batch.labels.any(axis=(1, 2)).all()
    assert not batch.sounds.any()


@pytest.mark.parametrize("kind", ["silence", "noise"])
def test_silence_and_noise_are_learnt_as_background(train, kind):
    augment = Augment(**{kind: 0.5})
    batches = take(train_batches(train, SPEC, batch_size=34, seed=0, augment=augment), 6)
    plain = take(train_batches(train, SPEC, batch_size=34, seed=0), 6)
    silent = np.concatenate(
        [(b.log_mel != p.log_mel).any(axis=(1, 2)) for b, p in zip(batches, plain, strict=True)]
    )
    windows = np.concatenate([b.log_mel for b in batches])[silent]
    assert np.allclose(windows, SILENCE) == (kind == "silence")
    labelled = np.concatenate([b.labels.any(axis=(1, 2)) for b in batches])
    sounds = np.concatenate([b.sounds.any(axis=1) for b in batches])
    known = np.concatenate([b.sounds_known for b in batches])
    np.testing.assert_array_equal(silent, ~labelled)
    assert 0.2 < silent.mean() < 0.8
    assert known[silent].all()
    assert not sounds[silent].any()


@pytest.mark.parametrize("workers", [(0, 0), (2, 1)])
def test_restored_state_gives_the_identical_next_batches(train, workers):
    options = {"batch_size": 8, "seed": 2, "augment": ALL_AUGMENTED}
    before = train_batches(train, SPEC, num_workers=workers[0], **options)
    with before:
        for _ in range(3):
            next(before)
        state = before.get_state()
        expected = [next(before) for _ in range(3)]
    after = train_batches(train, SPEC, num_workers=workers[1], **options)
    after.set_state(state)
    assert after.get_state() == state
    for batch, other in zip(take(after, 3), expected, strict=True):
        assert_same(batch, other)
    assert_different(expected[0], expected[1])


def test_state_can_be_set_back_on_the_same_iterator(train):
    with train_batches(train, SPEC, batch_size=8, seed=2) as batches:
        first = next(batches)
        next(batches)
        batches.set_state({"next_batch": 0})
        assert_same(next(batches), first)
    with pytest.raises(UserError, match="data state"):
        batches.set_state({"step": 3})


def test_processes_share_the_global_batch(train):
    whole = take(train_batches(train, SPEC, batch_size=12, seed=0), 5)
    shares = [
        take(
            train_batches(train, SPEC, batch_size=12, seed=0, process_index=index, process_count=3),
            5,
        )
        for index in range(3)
    ]
    for number, batch in enumerate(whole):
        joined = np.concatenate([share[number].frames for share in shares])
        np.testing.assert_array_equal(joined, batch.frames)
    with pytest.raises(UserError, match="batch_size"):
        train_batches(train, SPEC, batch_size=8, seed=0, process_count=3)


def test_cache_changes_nothing_but_work(train):
    cache = FrameCache(max_bytes=10**8)
    options = {"batch_size": 34, "seed": 0, "augment": ALL_AUGMENTED}
    plain = take(train_batches(train, SPEC, **options), 3)
    kept = take(train_batches(train, SPEC, cache=cache, **options), 3)
    for batch, other in zip(plain, kept, strict=True):
        assert_same(batch, other)
    # Frames, labels, and the sounds of such clips as were heard by then.
    assert 34 + 34 < len(cache) <= 34 + 34 + 7
    small = FrameCache(max_bytes=5_000)
    for batch, other in zip(
        take(train_batches(train, SPEC, cache=small, **options), 3), plain, strict=True
    ):
        assert_same(batch, other)
    assert 0 < len(small) < len(cache)


def test_a_full_cache_needs_no_further_reading(train, monkeypatch):
    cache = FrameCache(max_bytes=10**8)
    take(train_batches(train, SPEC, batch_size=34, seed=0, cache=cache), 1)
    monkeypatch.setattr(ClipSource, "__getitem__", lambda *_: pytest.fail("read again"))
    assert_true_content(take(train_batches(train, SPEC, batch_size=34, seed=1, cache=cache), 1)[0])


def test_evaluation_holds_every_frame_once_in_order(evaluated):
    batches = eval_batches(evaluated, SPEC, batch_size=10)
    assert len(batches) == 3
    batches = take(batches, None)
    assert [int(batch.valid.sum()) for batch in batches] == [10, 10, 5]
    pairs = [
        (int(batch.clip[n]), int(batch.second[n]))
        for batch in batches
        for n in np.flatnonzero(batch.valid)
    ]
    assert pairs == [(clip, second) for clip in range(5) for second in range(5)]
    padded = ~batches[-1].valid
    assert (batches[-1].clip[padded] == -1).all()
    assert not batches[-1].annotated[padded].any()
    assert not batches[-1].frames[padded].any()


def test_evaluation_shares_among_processes_and_workers(evaluated):
    whole = take(eval_batches(evaluated, SPEC, batch_size=8), None)
    halves = [
        take(eval_batches(evaluated, SPEC, batch_size=8, process_index=i, process_count=2), None)
        for i in range(2)
    ]
    workers = take(eval_batches(evaluated, SPEC, batch_size=8, num_workers=1), None)
    assert len(halves[0]) == len(halves[1]) == len(workers) == len(whole) == 4
    for number, batch in enumerate(whole):
        assert_same(workers[number], batch)
        np.testing.assert_array_equal(
            np.concatenate([half[number].clip for half in halves]), batch.clip
        )


def test_evaluation_with_other_sounds(evaluated):
    own, foreign, again, silence, noise = (
        take(eval_batches(evaluated, SPEC, batch_size=25, sounds=sounds), None)[0]
        for sounds in ("own", "foreign", "foreign", "silence", "noise")
    )
    assert_same(foreign, again)
    # The same noise wherever a batch cuts a clip.
    parts = take(eval_batches(evaluated, SPEC, batch_size=4, sounds="noise"), None)
    joined = np.concatenate([part.log_mel for part in parts])[:25]
    np.testing.assert_array_equal(joined, noise.log_mel)
    assert len(np.unique(noise.log_mel[:, 0, 0])) == 25
    for other in (foreign, silence, noise):
        np.testing.assert_array_equal(other.frames, own.frames)
        np.testing.assert_array_equal(other.labels, own.labels)
    windows = {tuple(log_mel_windows(waveform_of(c, 5))[0, 0, :3]): c for c in range(5)}
    heard = [windows[tuple(foreign.log_mel[5 * clip, 0, :3])] for clip in range(5)]
    assert sorted(heard) == list(range(5))
    assert all(heard[clip] != clip for clip in range(5))
    np.testing.assert_array_equal(foreign.sounds[::5], own.sounds[::5][heard])
    np.testing.assert_allclose(silence.log_mel, SILENCE, rtol=1e-6)
    for other in (silence, noise):
        assert not other.sounds.any()
        assert other.sounds_known.all()


def test_wrong_choices_are_named(evaluated, prepared):
    with pytest.raises(UserError, match="quiet"):
        eval_batches(evaluated, SPEC, batch_size=5, sounds="quiet")
    with pytest.raises(UserError, match="two clips"):
        eval_batches(
            ClipSource([(prepared, "damaged_frame")]), SPEC, batch_size=5, sounds="foreign"
        )
    with pytest.raises(UserError, match="annotated"):
        train_batches(ClipSource([(prepared, "unlabelled")]), SPEC, batch_size=5, seed=0)
    for wrong in (
        {"label_rule": "cubic"},
        {"label_rule": "bilinear_above_zero"},
        {"sounds_from": "ears"},
        {"sounds_from": "labels", "class_names": ()},
        {"short_audio": "loop"},
    ):
        with pytest.raises(UserError, match=next(iter(wrong))):
            dataclasses.replace(SPEC, **wrong)


@pytest.mark.parametrize(
    ("split", "what", "workers"),
    [
        ("damaged_frame", "frame 2", 0),
        ("damaged_frame", "frame 2", 1),
        ("damaged_labels", "label map 1", 0),
    ],
)
def test_a_damaged_image_is_named(prepared, split, what, workers):
    source = ClipSource([(prepared, split)])
    batches = eval_batches(source, SPEC, batch_size=5, num_workers=workers)
    with batches, pytest.raises(UserError, match=f"1.0.0: clip -clip0, {what}"):
        next(batches)


def test_maps_for_reports(evaluated, train):
    reader = FrameReader(evaluated, SPEC)
    maps = reader.maps(2, "objects", (1, 4))
    expected = [resize_labels(objects_of(2, second), 14) for second in (1, 4)]
    np.testing.assert_array_equal(maps, expected)
    with pytest.raises(UserError, match=r"clip2 has no depth"):
        reader.maps(2, "depth", (0,))


def test_labels_from_what_is_visible(evaluated):
    """What is visible takes the labels' place; what sounds is still what the labels say."""
    spec = dataclasses.replace(SPEC, sounds_from="labels")
    heard = FrameReader(evaluated, spec).read(2, (1, 4))
    spec = dataclasses.replace(spec, labels_from="objects")
    seen = FrameReader(evaluated, spec, FrameCache(10**6)).read(2, (1, 4))
    expected = [resize_labels(objects_of(2, second), 14) for second in (1, 4)]
    np.testing.assert_array_equal(seen["labels"], expected)
    assert (heard["labels"] != seen["labels"]).any()
    np.testing.assert_array_equal(heard["sounds"], seen["sounds"])
    assert seen["sounds"].sum(axis=1).tolist() == [1, 1]
