"""What both metrics share: pixels are counted on the device, frames are collected on the host.

Counts are integers, so they come out the same on every accelerator, in any batching and under any
sharding; all ratios are taken on the host in float64 (metrics_binary, metrics_semantic).
"""

import dataclasses
from collections.abc import Mapping
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Integer

from ssp_jax.errors import UserError
from ssp_jax.processes import gather_rows


def joint_histogram(
    rows: Integer[Array, "N P"], columns: Integer[Array, "N P"], num_rows: int, num_columns: int
) -> Int[Array, "N {num_rows} {num_columns}"]:
    """Count how often each (row, column) pair occurs among the P pixels of each frame, int32.

    Pixels with an index outside 0..num_rows-1 or 0..num_columns-1 are not counted. P up to 2^24.
    A TPU adds at computed addresses one by one, so it multiplies one-hot matrices instead.
    """
    rows, columns = rows.astype(jnp.int32), columns.astype(jnp.int32)

    def scatter(row: Int[Array, " P"], column: Int[Array, " P"]) -> Int[Array, "R C"]:
        inside = (row >= 0) & (row < num_rows) & (column >= 0) & (column < num_columns)
        cells = num_rows * num_columns
        cell = jnp.where(inside, row * num_columns + column, cells)
        counts = jnp.zeros(cells, jnp.int32).at[cell].add(1, mode="drop")
        return counts.reshape(num_rows, num_columns)

    def multiply(row: Int[Array, " P"], column: Int[Array, " P"]) -> Int[Array, "R C"]:
        # 0 and 1 are exact in bfloat16 and the products are summed in float32: exact below 2^24.
        counts = jnp.matmul(
            jax.nn.one_hot(row, num_rows, dtype=jnp.bfloat16).T,
            jax.nn.one_hot(column, num_columns, dtype=jnp.bfloat16),
            preferred_element_type=jnp.float32,
        )
        return counts.astype(jnp.int32)

    return jax.lax.platform_dependent(
        rows,
        columns,
        tpu=lambda r, c: jax.lax.map(lambda pair: multiply(*pair), (r, c)),
        default=jax.vmap(scatter),
    )


@dataclasses.dataclass(frozen=True)
class FrameCounts:
    """Counts of every frame scored so far, on the host; the state of both metrics.

    Frames keep their clip and second: sums are then taken in one order, so that neither batching
    nor merging changes a bit of the result, and clips can be grouped as a protocol asks.
    """

    chunks: tuple[Mapping[str, np.ndarray], ...] = ()

    @classmethod
    def empty(cls) -> Self:
        """No frame yet."""
        return cls()

    @classmethod
    def from_stats(
        cls,
        stats: Mapping[str, Array | np.ndarray],
        clip: Integer[np.ndarray, " N"],
        second: Integer[np.ndarray, " N"],
    ) -> Self:
        """The state of one batch of N frames; frames whose `valid` is False are left out.

        Args:
          stats: of `binary_frame_stats` or `semantic_frame_stats`, wholly addressable by this
            process. clip, second: which frame each is, as in `AVBatch`.
        """
        valid = np.asarray(stats["valid"], bool)
        kept = {name: np.asarray(value)[valid] for name, value in stats.items() if name != "valid"}
        kept["clip"] = np.asarray(clip, np.int64)[valid]
        kept["second"] = np.asarray(second, np.int64)[valid]
        return cls((kept,))  # perhaps without a frame; it says what is counted all the same

    def merge(self, other: Self) -> Self:
        """The frames of both; neither may hold a frame of the other."""
        return type(self)(self.chunks + other.chunks)

    def gathered(self) -> dict[str, np.ndarray]:
        """Return all counts with a leading axis of frames, in no order; `cls((these,))` holds them.

        Of several processes, the frames of all; each has to ask. Empty where nothing was added.
        """
        names = self.chunks[0] if self.chunks else ()
        return gather_rows({n: np.concatenate([chunk[n] for chunk in self.chunks]) for n in names})

    def frames(self) -> dict[str, np.ndarray]:
        """All counts with a leading axis of frames, ordered by clip, then second.

        Of several processes, the frames of all; each has to ask.

        Raises:
          UserError: no frame was scored.
          ValueError: a frame was scored twice, as happens when an uneven split is filled up with
            repeated examples that are not marked invalid.
        """
        joined = self.gathered()
        if not joined or not len(joined["clip"]):
            raise UserError(
                "no annotated frame was scored: expected at least one annotated clip in the split; "
                "check the split's name and the prepared data"
            )
        order = np.lexsort((joined["second"], joined["clip"]))
        joined = {name: value[order] for name, value in joined.items()}
        repeated = (np.diff(joined["clip"]) == 0) & (np.diff(joined["second"]) == 0)
        if repeated.any():
            first = np.flatnonzero(repeated)[0]
            raise ValueError(
                f"{repeated.sum()} frames were scored twice, the first is clip "
                f"{joined['clip'][first]} second {joined['second'][first]}: "
                "mark repeated examples valid = False"
            )
        return joined
