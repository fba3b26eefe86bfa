"""Checkpoints: the last state with the data iterator, and the best parameters, each whole."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from ssp_jax.errors import UserError
from ssp_jax.train_state import TrainState, path_name


class Checkpoints:
    """Two sets in one folder: `last` (to go on from) and `best` (to predict with).

    Orbax writes to a temporary folder and renames it, so a run that is killed while saving finds
    its previous checkpoint whole.
    """

    def __init__(self, folder: Path):
        folder = folder.resolve()
        self._last = ocp.CheckpointManager(
            folder / "last", options=ocp.CheckpointManagerOptions(max_to_keep=2)
        )
        self._best = ocp.CheckpointManager(
            folder / "best",
            options=ocp.CheckpointManagerOptions(
                max_to_keep=1, best_fn=lambda metrics: metrics["score"], best_mode="max"
            ),
        )

    def save(self, state: TrainState, data_state: dict[str, Any]) -> None:
        """Save everything a resumed run needs; returns while writing goes on."""
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data_state)
        )
        self._last.save(int(state.step), args=args)

    def latest_step(self) -> int | None:
        """Step of the last complete checkpoint, None before the first."""
        return self._last.latest_step()

    def restore(self, like: TrainState, shardings: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The last state, in the given shardings, and the data iterator's state.

        Raises:
          UserError: the checkpoint is of another model or cannot be read.
        """
        target = _abstract(like, shardings)
        step = self._last.latest_step()
        try:
            restored = self._last.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(target), data=ocp.args.JsonRestore()
                ),
            )
        except (ValueError, KeyError, FileNotFoundError) as error:
            raise UserError(
                f"{self._last.directory}: the checkpoint of step {step} does not fit this config "
                f"or is damaged ({_first_line(error)}). Use the config it was made with, or "
                "another --workdir"
            ) from error
        return restored["state"], restored["data"]

    def save_best(self, step: int, params: dict, score: float) -> None:
        """Keep these parameters if `score` is the best so far."""
        self._best.save(
            step,
            args=ocp.args.Composite(params=ocp.args.StandardSave(params)),
            metrics={"score": score},
        )

    def best_step(self) -> int | None:
        """Step of the best parameters, None before the first evaluation."""
        return self._best.best_step()

    def restore_best(self, like: dict, shardings: Any) -> dict:
        """The best parameters, in the given shardings."""
        self.wait()
        restored = self._best.restore(
            self.best_step(),
            args=ocp.args.Composite(params=ocp.args.StandardRestore(_abstract(like, shardings))),
        )
        return restored["params"]

    def wait(self) -> None:
        """Until everything is on disk."""
        self._last.wait_until_finished()
        self._best.wait_until_finished()

    def close(self) -> None:
        """Finish writing and release the folders."""
        self._last.close()
        self._best.close()


def read_best(folder: Path) -> dict[str, np.ndarray]:
    """The best parameters below a stage's `checkpoints` folder, by path name.

    Raises:
      UserError: there are none, or they cannot be read.
    """
    path, step = Path(folder).resolve() / "best", None
    if path.is_dir():  # the manager would make it
        manager = ocp.CheckpointManager(
            path, item_handlers={"params": ocp.StandardCheckpointHandler()}
        )
        step = manager.latest_step()  # it keeps one, the best
    if step is None:
        raise UserError(f"{folder}: no checkpoint to start from; expected a trained stage there")
    try:
        # Into host arrays: the devices that wrote it need not be here.
        stored = manager.item_metadata(step)["params"]
        target = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), stored)
        args = ocp.args.Composite(params=ocp.args.StandardRestore(target))
        params = manager.restore(step, args=args)["params"]
    except (ValueError, KeyError, FileNotFoundError) as error:
        raise UserError(f"{folder}: step {step} cannot be read ({_first_line(error)})") from error
    finally:
        manager.close()
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {path_name(path): np.asarray(leaf) for path, leaf in leaves}


def _abstract(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]
