"""What `benchmarks.selection` counts, on frames made by hand."""

import numpy as np

from benchmarks.selection import Counts, Frame, heard_classes

BELL, CAR, DRUM = 1, 2, 3


def frame(left, right):
    """20 x 20 pixels: two halves."""
    halves = np.zeros((20, 20), np.uint8)
    halves[:, :10], halves[:, 10:] = left, right
    return halves


def shares(*maps, binary=False):
    """Of frames of one clip."""
    frames, counts = [Frame(0, *one) for one in maps], Counts()
    for one in frames:
        counts.add(one, heard_classes(frames)[0], binary=binary)
    return counts.shares()


def test_a_right_choice_with_a_coarse_outline():
    half = frame(BELL, 0)
    half[:5] = 0  # a quarter of the bell is missed
    one = (half, frame(BELL, 0), frame(BELL, CAR))
    assert shares(one) == (100, 100, 0, 0, 100, 75, 75, 0)


def test_wrong_name_and_stray_class():
    one = (frame(DRUM, 0), frame(BELL, 0), frame(BELL, CAR))
    assert shares(one) == (100, 0, 0, 0, 100, 100, 100, 100)


def test_the_silent_one_is_taken():
    right = (frame(BELL, 0), frame(BELL, 0), frame(BELL, CAR))
    wrong = (frame(0, CAR), frame(BELL, 0), frame(BELL, CAR))
    assert shares(right, wrong) == (50, 100, 50, 50, 50, 100, 50, 50)


def test_what_sounds_at_another_second_is_not_silent_all_along():
    first = (frame(0, CAR), frame(BELL, 0), frame(BELL, CAR))
    second = (frame(0, CAR), frame(0, CAR), frame(BELL, CAR))
    # Silent are the car at first, the bell then; each sounds in the other frame.
    assert shares(first, second)[2:4] == (50, 0)


def test_nothing_sounds_and_nothing_is_said_to():
    quiet = (frame(0, 0), frame(0, 0), frame(BELL, CAR))
    assert shares(quiet) == (0, 0, 0, 0, 100, 0, 0, 0)


def test_one_name_for_all_that_sounds():
    one = (frame(1, 0), frame(1, 0), frame(CAR, DRUM))
    assert shares(one, binary=True) == (100, 100, 0, 0, 100, 100, 100, 0)
