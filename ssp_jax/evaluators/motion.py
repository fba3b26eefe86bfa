"""Where flow and sound disagree: what sounds but stands still, and what moves but is silent.

Only for data whose moving objects are known (the built-in benchmark). It shows what a score hides:
flow must not fool the network about the second, and texts should help it with the first.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Integer

from ssp_jax.processes import gather_rows


@dataclasses.dataclass(frozen=True)
class MotionState:
    """Pixels of annotated frames: all of each kind, and how many were hit."""

    still_sounding: int = 0
    still_sounding_found: int = 0
    moving_silent: int = 0
    moving_silent_taken: int = 0
    moving_sounding: int = 0
    moving_sounding_found: int = 0
    still_silent: int = 0
    still_silent_taken: int = 0

    def merge(self, other: "MotionState") -> "MotionState":
        """Both together."""
        return MotionState(
            *(a + b for a, b in zip(*map(dataclasses.astuple, (self, other)), strict=True))
        )

    def over_processes(self) -> "MotionState":
        """Join the counts of all processes; each has to ask."""
        counts = gather_rows({"counts": np.array([dataclasses.astuple(self)])})["counts"]
        return MotionState(*counts.sum(0).tolist())

    def compute(self) -> Iterator[tuple[str, float]]:
        """(name, share): how much of the sounding objects, still and moving, was found with the
        right class; how much of the silent ones was taken for sounding. NaN where there are
        none."""
        for name, hit in (
            ("still_sounding", "still_sounding_found"),
            ("moving_silent", "moving_silent_taken"),
            ("moving_sounding", "moving_sounding_found"),
            ("still_silent", "still_silent_taken"),
        ):
            count = getattr(self, name)
            yield hit, getattr(self, hit) / count if count else float("nan")


def motion_state(
    prediction: Integer[np.ndarray, "N h w"],
    labels: Integer[np.ndarray, "N h w"],
    objects: Integer[np.ndarray, "N h w"],
    moving: Integer[np.ndarray, "N h w"],
) -> MotionState:
    """Count the pixels of annotated frames.

    Args:
      prediction, labels: class per pixel, 0 background. objects: class of every visible object,
        sounding or not. moving: not 0 where that object moves.
    """
    sounding, silent = labels > 0, (labels == 0) & (objects > 0)
    found, taken, moves = prediction == labels, prediction > 0, moving != 0
    counts = []
    for where, hit in (
        (sounding & ~moves, found),
        (silent & moves, taken),
        (sounding & moves, found),
        (silent & ~moves, taken),
    ):
        counts += [int(where.sum()), int((where & hit).sum())]
    return MotionState(*counts)
