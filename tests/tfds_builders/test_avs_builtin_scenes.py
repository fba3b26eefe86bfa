"""The built-in benchmark's scenes: deterministic, fair to every class, no instance shared."""

import collections

import numpy as np
import pytest

from tfds_builders.avs_builtin.catalogue import (
    CLASS_NAMES,
    INSTANCES,
    NUM_CLASSES,
    SPLITS,
    SUBSETS,
    clip_streams,
    instance_stream,
)
from tfds_builders.avs_builtin.objects import draw_look
from tfds_builders.avs_builtin.scene import clip_names, plan
from tfds_builders.avs_builtin.texts import WRONG_SHARE, describe

SEED = 0


@pytest.fixture(scope="module")
def scenes():
    """subset -> 400 planned training clips."""
    return {s: [plan(SEED, "train", s, i) for i in range(400)] for s in SUBSETS}


def _looks(scene):
    return [
        draw_look(
            a.class_index,
            instance_stream(SEED, scene.split, a.class_index, a.number, voice=False),
        )
        for a in scene.actors
    ]


def test_a_clip_stays_what_it_was():
    """Catches a change of content that forgot to raise the builder's VERSION."""
    scene = plan(SEED, "test", "v2", 3)
    assert scene.uid == "jThyS800003_39000_49000"
    assert [(a.instance, a.moves) for a in scene.actors] == [
        ("test/boat/090", False),
        ("test/flute/054", True),
        ("test/car/055", True),
        ("test/harp/002", False),
        ("test/helicopter/072", True),
    ]
    np.testing.assert_allclose(scene.actors[0].centre[0], (171.38, 54.47), atol=0.05)


def test_classes_are_alphabetical_and_enough():
    assert CLASS_NAMES[0] == "background"
    assert list(CLASS_NAMES[1:]) == sorted(set(CLASS_NAMES[1:]))
    assert NUM_CLASSES >= 13


def test_seeds_splits_and_indices_differ():
    keys = [(0, "train", 0), (1, "train", 0), (0, "val", 0), (0, "train", 1)]
    centres = {plan(s, split, "v1s", i).actors[0].centre.tobytes() for s, split, i in keys}
    assert len(centres) == len(keys)


def test_no_instance_is_in_two_splits():
    used = {
        split: {
            a.instance
            for subset in SUBSETS
            for i in range(60)
            for a in plan(SEED, split, subset, i).actors
        }
        for split in SPLITS
    }
    assert not used["train"] & used["val"]
    assert not used["train"] & used["test"]
    assert not used["val"] & used["test"]


@pytest.mark.parametrize("voice", [False, True])
def test_instances_of_different_splits_have_different_parameters(voice):
    drawn = [
        tuple(instance_stream(SEED, split, 1, number, voice=voice).random(4))
        for split in SPLITS
        for number in range(INSTANCES[split])
    ]
    assert len(set(drawn)) == sum(INSTANCES.values())


def test_no_class_twice_in_a_clip(scenes):
    for scene in (s for subset in scenes.values() for s in subset):
        classes = [a.class_index for a in scene.actors]
        assert len(set(classes)) == len(classes)


def test_every_class_sounds_and_is_silent_equally_often(scenes):
    counts = {True: collections.Counter(), False: collections.Counter()}
    for scene in (s for subset in scenes.values() for s in subset):
        for actor in scene.actors:
            counts[bool(actor.sounding.any())][actor.class_index] += 1
    for count in counts.values():
        mean = sum(count.values()) / (NUM_CLASSES - 1)
        assert all(abs(count[k] - mean) < 0.25 * mean for k in range(1, NUM_CLASSES))


def test_neither_motion_nor_sight_tells_what_sounds(scenes):
    moves = {True: [], False: []}
    for scene in (s for subset in scenes.values() for s in subset):
        for actor in scene.actors:
            moves[bool(actor.sounding.any())].append(actor.moves)
    assert np.mean(moves[True]) == pytest.approx(0.67, abs=0.05)
    assert np.mean(moves[False]) == pytest.approx(0.5, abs=0.06)
    with_silent = [any(not a.sounding.any() for a in s.actors) for s in scenes["v1s"]]
    assert all(with_silent)
    sides = {
        loud: np.mean([a.side for s in scenes["v1s"] for a in s.actors if a.sounding.any() == loud])
        for loud in (True, False)
    }
    assert sides[True] == pytest.approx(sides[False], rel=0.1)


def test_subsets_are_like_their_models(scenes):
    for scene in scenes["v1s"]:
        loud = [a for a in scene.actors if a.sounding.any()]
        assert len(loud) == 1
        assert loud[0].sounding.all()
        assert (scene.num_frames, scene.num_annotated) == (5, 1)
    heard = np.array([np.any([a.sounding for a in s.actors], 0) for s in scenes["v1m"]])
    assert 0.03 < 1 - heard.mean() < 0.2
    for scene in scenes["v1m"]:
        assert 2 <= len(scene.sounding_names) <= 3
        assert scene.num_annotated == 5
    assert any(len(np.unique(a.sounding)) == 2 for s in scenes["v1m"] for a in s.actors)
    assert {s.num_frames for s in scenes["v2"]} == {10}
    assert len({(s.height, s.width) for s in scenes["v2"]}) >= 3
    assert plan(SEED, "val", "v1s", 0).num_annotated == 5


def test_objects_are_within_the_promised_sizes_and_in_view(scenes):
    for scene in (s for subset in scenes.values() for s in subset):
        short = min(scene.height, scene.width)
        for actor in scene.actors:
            assert 0.18 * short <= actor.side <= 0.55 * short
            assert (actor.centre >= 0).all()
            assert (actor.centre <= (scene.width, scene.height)).all()


def test_cameras_pan_in_more_than_half_of_the_clips(scenes):
    pans = [np.ptp(s.camera) > 0 for subset in scenes.values() for s in subset]
    assert 0.5 < np.mean(pans) < 0.7


def test_still_objects_move_with_the_background_only(scenes):
    for scene in scenes["v1s"]:
        for actor in scene.actors:
            against_scene = actor.centre + scene.camera
            assert (np.ptp(against_scene, axis=0).max() < 1e-6) != actor.moves


def test_names_are_formed_as_in_avsbench_and_unique():
    names = [
        clip_names(SEED, split, subset, i)
        for split in SPLITS
        for subset in SUBSETS
        for i in range(300)
    ]
    assert len({uid.lower() for _, uid, _ in names}) == len(names)
    assert any(uid.startswith("-") for _, uid, _ in names)
    vid, uid, start = clip_names(SEED, "train", "v1s", 7)
    assert len(vid) == 11
    assert uid == f"{vid}_{start * 1000}_{start * 1000 + 5000}"
    vid, uid, _ = clip_names(SEED, "train", "v1m", 7)
    assert vid == uid


def test_texts_are_wrong_in_about_one_of_ten(scenes):
    wrong = 0
    for scene in scenes["v2"] + scenes["v1m"]:
        streams = clip_streams(SEED, scene.split, scene.subset, scene.index)
        texts = describe(scene, _looks(scene), streams["text"])
        complete = all(f" {a.name} " in texts["scene"] for a in scene.actors)
        wrong += not complete or texts["sounding"] != " and ".join(scene.sounding_names)
    assert wrong / 800 == pytest.approx(WRONG_SHARE, abs=0.04)
