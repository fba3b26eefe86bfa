"""The built-in benchmark's pixels and samples: labels follow the sound, classes can be told."""

import numpy as np
import pytest

from tfds_builders.avs_builtin.catalogue import CLASS_NAMES, NUM_CLASSES, SUBSETS, instance_stream
from tfds_builders.avs_builtin.clip import clip, gate, render
from tfds_builders.avs_builtin.objects import draw_look, draw_object
from tfds_builders.avs_builtin.scene import plan
from tfds_builders.avs_builtin.sounds import synthesise

SEED = 0
CLASSES = range(1, NUM_CLASSES)
WINDOW = 15_360  # 0.96 s


@pytest.fixture(scope="module")
def clips():
    """subset -> 12 rendered test clips."""
    return {s: [render(plan(SEED, "test", s, i)) for i in range(12)] for s in SUBSETS}


def _every(clips):
    return [c for subset in clips.values() for c in subset]


def test_the_same_clip_twice_is_the_same_to_the_byte():
    first, second = clip(SEED, "train", "v1m", 3), clip(SEED, "train", "v1m", 3)
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key], err_msg=key)


def test_shapes_and_kinds(clips):
    for made in _every(clips):
        scene = made.scene
        size = (scene.num_frames, scene.height, scene.width)
        assert made.frames.shape == (*size, 3)
        assert made.labels.shape == made.objects.shape == made.moving.shape == size
        assert made.waveform.dtype == np.int16
        assert len(made.waveform) == 16_000 * scene.num_frames


def test_training_clips_of_v1s_are_annotated_once():
    example = clip(SEED, "train", "v1s", 0)
    assert (len(example["frames"]), len(example["labels"]), len(example["objects"])) == (5, 1, 1)
    assert example["annotated"].tolist() == [True, False, False, False, False]


def test_labels_are_the_objects_that_sound_in_that_second(clips):
    for made in _every(clips):
        for i, (label, objects) in enumerate(zip(made.labels, made.objects, strict=True)):
            loud = [a.class_index for a in made.scene.actors if a.sounding[i]]
            np.testing.assert_array_equal(label, np.where(np.isin(objects, loud), objects, 0))


def test_moving_marks_whole_objects_that_move(clips):
    for made in _every(clips):
        movers = [a.class_index for a in made.scene.actors if a.moves]
        np.testing.assert_array_equal(made.moving, np.isin(made.objects, movers))


def test_nearly_every_object_is_seen(clips):
    seen, present = 0, 0
    for made in _every(clips):
        for objects in made.objects:
            seen += sum((objects == a.class_index).sum() > 60 for a in made.scene.actors)
            present += len(made.scene.actors)
    assert seen / present > 0.97


def test_neither_everything_seen_nor_everything_moving_is_the_answer(clips):
    for predictor in ("objects", "moving"):
        ious = []
        for made in clips["v1s"]:
            for label, predicted in zip(made.labels, getattr(made, predictor), strict=True):
                both = (label > 0) & (predicted > 0)
                ious.append(both.sum() / ((label > 0) | (predicted > 0)).sum())
        assert 0.2 < np.mean(ious) < 0.7


def test_a_second_is_loud_where_something_sounds(clips):
    loud, quiet = [], []
    for made in clips["v1m"] + clips["v2"]:
        heard = np.any([a.sounding for a in made.scene.actors], axis=0)
        for i, sounds in enumerate(heard):
            part = made.waveform[i * WINDOW : (i + 1) * WINDOW].astype(float)
            (loud if sounds else quiet).append(np.sqrt(np.mean(part**2)))
    assert len(quiet) > 5
    assert min(loud) > 4 * max(quiet)
    assert min(quiet) > 0  # a noise floor, never digital silence


def test_gate_opens_with_the_nominal_windows():
    opened = gate(np.array([False, True, False, False, True]), 80_000)
    assert (opened[:WINDOW] == 0).all()
    assert (opened[2 * WINDOW : 4 * WINDOW] == 0).all()
    assert (opened[WINDOW + 240 : 2 * WINDOW - 240] == 1).all()
    assert (opened[4 * WINDOW + 240 :] == 1).all()
    assert np.abs(np.diff(opened)).max() < 0.01


def test_every_voice_is_heard_in_every_window():
    for k in CLASSES:
        voice = instance_stream(SEED, "val", k, 0, voice=True)
        signal = synthesise(k, voice, np.random.default_rng(0), 80_000)
        parts = signal[: 5 * WINDOW].reshape(5, WINDOW)
        rms = np.sqrt(np.mean(parts**2, axis=1))
        assert rms.min() > 0.4 * rms.max(), CLASS_NAMES[k]
        assert np.abs(signal).max() < 7


def _sound_features(split, number):
    """Mean and deviation over time of 32 log band energies of one window, per class."""
    rows = []
    for k in CLASSES:
        voice = instance_stream(SEED, split, k, number, voice=True)
        signal = synthesise(k, voice, np.random.default_rng(number), WINDOW)
        power = np.abs(np.fft.rfft(signal.reshape(-1, 512) * np.hanning(512))) ** 2
        bands = np.log(power[:, 1:].reshape(len(power), 32, 8).mean(2) + 1e-2)
        rows.append(np.concatenate([bands.mean(0), 2 * bands.std(0)]))
    return np.array(rows)


def test_classes_are_told_apart_by_one_window_of_sound():
    known = np.array([_sound_features("train", n) for n in range(20)])
    unknown = np.array([_sound_features("test", n) for n in range(6)])
    distance = np.linalg.norm(unknown[:, :, None, None] - known.swapaxes(0, 1), axis=-1)
    nearest = distance.min(-1).argmin(-1)
    assert np.mean(nearest == np.arange(len(CLASSES))) > 0.9


def _sprites(split, number):
    looks = [draw_look(k, instance_stream(SEED, split, k, number, voice=False)) for k in CLASSES]
    return [draw_object(k, look, 32) for k, look in zip(CLASSES, looks, strict=True)]


def _colours(sprite):
    seen = sprite[sprite[..., 3] > 200][:, :3]
    return np.histogramdd(seen // 64, 4, ((0, 4),) * 3)[0].ravel() / len(seen)


def _silhouette(sprite):
    opacity = sprite[..., 3].astype(float)
    return np.maximum(opacity, opacity[:, ::-1]).ravel()


@pytest.mark.parametrize(
    ("feature", "least", "most"), [(_silhouette, 0.95, 1.0), (_colours, 0.0, 0.6)]
)
def test_classes_are_told_apart_by_shape_and_not_by_colour_alone(feature, least, most):
    known = np.array([[feature(s) for s in _sprites("train", n)] for n in range(15)])
    unknown = np.array([[feature(s) for s in _sprites("test", n)] for n in range(6)])
    distance = np.linalg.norm(unknown[:, :, None, None] - known.swapaxes(0, 1), axis=-1)
    accuracy = np.mean(distance.min(-1).argmin(-1) == np.arange(len(CLASSES)))
    assert least <= accuracy <= most
