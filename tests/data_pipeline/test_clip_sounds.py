import numpy as np
import pytest

from ssp_jax.data.sounds import (
    category_sounds,
    foreign_clips,
    label_sounds,
    lender_for,
    table_sounds,
)

NAMES = ("dog", "girl", "guitar", "horse")


@pytest.mark.parametrize(
    ("category", "expected"),
    [
        ("girl_guitar", [0, 1, 1, 0]),
        ("dog", [1, 0, 0, 0]),
        ("dog_off-the-screen", [1, 0, 0, 0]),
        ("off-the-screen", None),
        ("background", None),
        ("h orse", None),
        ("", None),
    ],
)
def test_categories(category, expected):
    sounds, known = category_sounds(category, NAMES)
    assert sounds.dtype == np.float32
    assert known == (expected is not None)
    assert sounds.tolist() == (expected or [0, 0, 0, 0])


def test_a_name_with_underscores_is_one_class():
    names = ("playing_piano", "playing_violin", "violin")
    assert category_sounds("playing_violin", names)[0].tolist() == [0, 1, 0]


def test_label_sounds_are_the_classes_with_a_pixel():
    labels = np.zeros((4, 5), np.uint8)
    labels[1, 2], labels[3, 3] = 2, 3
    names = ("background", "girl", "horse", "dog")
    assert label_sounds(labels, names, NAMES).tolist() == [1, 0, 0, 1]
    assert label_sounds(np.zeros_like(labels), names, NAMES).tolist() == [0, 0, 0, 0]


def test_without_names_each_category_is_a_class():
    sounds, known = table_sounds(("a_b", "", "a", "a_b"), ())
    assert known.tolist() == [True, False, True, True]
    assert sounds @ sounds.T == pytest.approx(
        np.array([[1, 0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 1]])
    )


@pytest.mark.parametrize("seed", range(5))
def test_foreign_sounds_come_from_another_clip_of_other_classes(seed):
    rng = np.random.default_rng(seed)
    sounds = np.eye(6, dtype=np.float32)[rng.integers(0, 6, 40)]
    partner = foreign_clips(sounds, seed)
    assert sorted(partner.tolist()) == list(range(40))
    assert (partner != np.arange(40)).all()
    assert not (sounds * sounds[partner]).any()
    np.testing.assert_array_equal(partner, foreign_clips(sounds, seed))
    assert (partner != foreign_clips(sounds, seed + 1)).any()


def test_foreign_sounds_are_off_screen_where_that_is_known():
    rng = np.random.default_rng(0)
    sounds = np.eye(6, dtype=np.float32)[rng.integers(0, 6, 40)]
    visible = np.maximum(sounds, np.eye(6, dtype=np.float32)[rng.integers(0, 6, 40)])
    assert (visible * sounds[foreign_clips(sounds, 0)]).any()
    partner = foreign_clips(sounds, 0, visible)
    assert sorted(partner.tolist()) == list(range(40))
    assert not (visible * sounds[partner]).any()


def test_foreign_sounds_where_classes_cannot_differ():
    for count in (2, 3, 7):
        partner = foreign_clips(np.ones((count, 1), np.float32), 0)
        assert sorted(partner.tolist()) == list(range(count))
        assert (partner != np.arange(count)).all()
    with pytest.raises(ValueError, match="two clips"):
        foreign_clips(np.ones((1, 1)), 0)


def test_lender_shares_no_class_and_is_known():
    sounds, known = table_sounds(("dog", "dog_girl", "", "guitar", "horse_dog"), NAMES)
    rng = np.random.default_rng(0)
    assert {lender_for(0, sounds, known, rng) for _ in range(20)} == {3}
    assert {lender_for(3, sounds, known, rng) for _ in range(50)} == {0, 1, 4}
    shown = np.array([1, 1, 0, 1], np.float32)
    assert {lender_for(1, sounds, known, rng, shown) for _ in range(20)} == {3}
    assert lender_for(2, sounds, known, rng) is None
    assert lender_for(0, sounds[:2], known[:2], rng) is None
