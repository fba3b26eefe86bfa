"""Steps whose numbers are not finite: which part, on which clips, and how to see it again."""

import dataclasses
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from ssp_jax.batch import AVBatch
from ssp_jax.files import write_whole
from ssp_jax.train_state import path_name

_PREFIX = "not_finite/"
# What a step says of itself besides its numbers.
_FLAGS = ("applied", _PREFIX)


def numbers_of(scalars: Mapping[str, float]) -> dict[str, float]:
    """The scalars of a step without its flags."""
    return {name: value for name, value in scalars.items() if not name.startswith(_FLAGS)}


def bad_parts(scalars: Mapping[str, float]) -> list[str]:
    """Return what of a step was not finite: 'loss/mask', 'gradient of network/encoder', ..."""
    losses = [name for name, value in numbers_of(scalars).items() if not math.isfinite(value)]
    flags = [n.removeprefix(_PREFIX) for n, bad in scalars.items() if n.startswith(_PREFIX) and bad]
    return losses + [flag.replace("/", " of ", 1) for flag in flags]


@dataclasses.dataclass(frozen=True)
class Dump:
    """Where the batch of a step that was not finite is kept, in JSON and npz files.

    Attributes:
      folder: of all dumps of a stage. uids: number of a clip in the training data -> its name.
      facts: of the run, to tell it from others.
    """

    folder: Path
    uids: Sequence[str]
    facts: Mapping[str, Any]

    def write(
        self, step: int, scalars: Mapping[str, float], batch: AVBatch, params: dict
    ) -> tuple[Path, list[str], str]:
        """Write the dump of one step, by all processes.

        Args:
          batch: this process's share, host arrays. params: before the step, on the devices.

        Returns:
          The folder, the clips of the whole batch, and what is wrong with batch or parameters
          before anything is computed ("" where nothing is).
        """
        folder = self.folder / f"step-{step:07d}"
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {k: v for k, v in dataclasses.asdict(batch).items() if v is not None}
        packed = io.BytesIO()
        np.savez(packed, **arrays)
        (folder / f"batch-{jax.process_index()}.npz").write_bytes(packed.getvalue())
        slots = multihost_utils.process_allgather(
            np.stack([batch.clip, batch.second], 1), tiled=True
        )
        clips = list(dict.fromkeys(self.uids[clip] for clip, _ in slots if clip >= 0))
        wrong = [f"the batch's {name}" for name, array in arrays.items() if not _finite(array)]
        leaves = jax.tree_util.tree_leaves_with_path(params)
        bad = jax.device_get([~_all_finite(leaf) for _, leaf in leaves])
        wrong += [path_name(path) for (path, _), is_bad in zip(leaves, bad, strict=True) if is_bad]
        if jax.process_index() == 0:
            facts = {
                "step": step,
                "not_finite": bad_parts(scalars),
                "not_finite_before": wrong,
                "clips": clips,
                "slots": [[int(clip), int(second)] for clip, second in slots],
                "numbers": {name: repr(float(x)) for name, x in numbers_of(scalars).items()},
                **self.facts,
            }
            write_whole(folder / "step.json", json.dumps(facts, indent=1) + "\n")
        return folder, clips, ", ".join(wrong[:5])


def _finite(array: np.ndarray) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


@jax.jit
def _all_finite(leaf: jax.Array) -> jax.Array:
    return jnp.isfinite(leaf).all()
