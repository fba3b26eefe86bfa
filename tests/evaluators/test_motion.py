import numpy as np

from ssp_jax.evaluators.motion import MotionState, motion_state


def test_what_is_still_and_sounds_and_what_moves_and_is_silent():
    # Columns: still and sounding (class 2) twice, moving and silent, moving and sounding, nothing.
    labels = np.array([[[2, 2, 0, 3, 0]]])
    objects = np.array([[[2, 2, 4, 3, 0]]])
    moving = np.array([[[0, 0, 1, 1, 0]]])
    prediction = np.array([[[2, 3, 4, 0, 1]]])
    state = motion_state(prediction, labels, objects, moving)
    assert state == MotionState(2, 1, 1, 1, 1, 0, 0, 0)
    perfect = motion_state(labels, labels, objects, moving)
    shares = dict(state.merge(perfect).compute())
    assert np.isnan(shares.pop("still_silent_taken"))
    assert shares == {
        "still_sounding_found": 0.75,
        "moving_silent_taken": 0.5,
        "moving_sounding_found": 0.5,
    }
    assert all(np.isnan(share) for _, share in MotionState().compute())
