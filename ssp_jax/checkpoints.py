"""Checkpoints: the last states with the loop's progress, and the best parameters, each whole.

`last/STEP` is what a run goes on from; two are kept, so that one may be damaged. `best/STEP` has
the parameters of that evaluation, written before `last/STEP`, and only where it was better than all
before: so the best that belongs to a `last` is the newest one up to its step.
"""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from ssp_jax import preemption
from ssp_jax.checkpoint_files import (
    Damaged,
    first_line,
    items,
    open_manager,
    read,
    read_facts,
    read_on_host,
    stored_shapes,
)
from ssp_jax.errors import UserError
from ssp_jax.files import absolute, is_remote, move_folder, remove_folder
from ssp_jax.train_state import StateMaker, TrainState

_LOG = logging.getLogger(__name__)
_NO_BEST = "{folder}: no checkpoint to start from; expected a trained stage there"
# Name of the arrays.
_ITEMS = {"last": "state", "best": "params"}
# On gs:// what has no such file is to Orbax no checkpoint.
_WHOLE = "commit_success.txt"


class Checkpoints:
    """The checkpoints of one stage, in one folder; as a context it finishes what was begun, however
    the block ends.

    Orbax writes to a temporary folder and renames it, so a run that is killed while saving finds
    its previous checkpoint whole.
    """

    def __init__(self, folder: Path, *, read_only: bool = False):
        """
        Args:
          read_only: for who does not train this stage; another process may be writing there.

        Raises:
          UserError: the folder cannot be written.
        """
        self._folder = folder = absolute(folder)
        self._read_only = read_only
        options = {"read_only": read_only, "cleanup_tmp_directories": not read_only}

        def manager(name: str, keep: int | None) -> ocp.CheckpointManager:
            return open_manager(folder / name, _ITEMS[name], max_to_keep=keep, **options)

        try:
            if not read_only and jax.process_index() == 0:
                remove_folder(folder / "deleted")
            self._last, self._best = manager("last", 2), manager("best", None)
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error})") from error

    def save(self, state: TrainState, progress: dict[str, Any]) -> None:
        """Save everything a resumed run needs; returns while writing goes on.

        What is there of the same step is replaced.

        Raises:
          UserError: this, or what was still being written, cannot be written.
        """
        step = state.number
        self.wait()  # of the best too: it must be there before the checkpoint that counts on it
        if step in self._last.all_steps():
            self._remove(self._last, step, "deleted")
        self._write(self._last, step, state, progress)

    def latest_step(self) -> int | None:
        """Step of the last checkpoint, None before the first."""
        return self._last.latest_step()

    def finished(self, step: int) -> bool:
        """Tell whether the last checkpoint is of this step, and was evaluated."""
        if self.latest_step() != step:
            return False
        try:
            return read_facts(self._last, step).get("loop", {}).get("evaluated", True)
        except Damaged:
            return False

    def restore(
        self, states_at: Callable[[int], StateMaker]
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """The last state, in the shardings of `states_at` its step, and the progress saved with it.

        None where nothing was saved. A damaged checkpoint is reported, and the one before is taken.

        Raises:
          UserError: the checkpoint is of another model or code version, or none is whole.
        """
        damaged = {}
        for step in sorted(self._last.all_steps(), reverse=True):
            states = states_at(step)
            try:
                state, progress = read(self._last, step, "state", states.shapes, states.shardings)
            except Damaged as error:
                damaged[step] = error
                continue
            for other, error in damaged.items():
                self._remove(self._last, other, "damaged")
                _LOG.warning(
                    "the checkpoint of step %d is damaged (%s); going on from the one of step %d, "
                    "and it is now in %s",
                    *(other, error, step, self._folder / "damaged"),
                )
            return state, progress
        if damaged:
            reasons = "; ".join(f"step {step}: {error}" for step, error in damaged.items())
            raise UserError(
                f"{self._folder / 'last'}: no checkpoint is whole ({reasons}). Put a copy back, or "
                f"delete {self._folder} to train this stage anew"
            )
        return None

    def go_on_from(self, step: int) -> None:
        """Forget the best parameters of later steps, which will be done again."""
        for later in [s for s in self._best.all_steps() if s > step]:
            self._remove(self._best, later, "deleted")

    def save_best(self, step: int, params: dict, score: float) -> None:
        """Keep these parameters if `score` is the best so far; returns while writing goes on.

        Raises:
          UserError: see `save`.
        """
        best = self.best_step()
        if math.isnan(score) or (best is not None and score <= self._score(best)):
            return
        self._write(self._best, step, params, {"score": score})

    def best_step(self) -> int | None:
        """Step of the best parameters, None before the first evaluation."""
        return self._best.latest_step()

    def restore_best(self, like: dict, shardings: Any) -> dict:
        """The best parameters, in the given shardings.

        Raises:
          UserError: they are damaged, or of another model.
        """
        self.wait()
        step = self.best_step()
        try:
            return read(self._best, step, "params", like, shardings)[0]
        except Damaged as error:
            raise UserError(self._damaged_best(step, error)) from error

    def wait(self) -> None:
        """Until everything is on disk.

        Raises:
          UserError: something cannot be written.
        """
        self._try("the best parameters", self._best.wait_until_finished)
        self._try("the checkpoint", self._last.wait_until_finished)
        steps, bests = self._last.all_steps(), self._best.all_steps()
        wanted = {max((b for b in bests if b <= step), default=None) for step in steps}
        for best in bests:
            if steps and best < max(steps) and best not in wanted:
                self._remove(self._best, best, "deleted")

    def close(self) -> None:
        """Finish writing and release the folders.

        Raises:
          UserError: see `wait`.
        """
        try:
            self.wait()
        finally:
            self._last.close()
            self._best.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        if kind is None:
            with preemption.held_back():
                self.close()
            return
        # Orbax's threads write no more once the interpreter ends, so leaving waits for them.
        with preemption.undisturbed():
            try:
                self.close()
            except UserError as error:
                _LOG.warning("%s", error)  # what ended the block says why the run stops

    def _score(self, step: int) -> float:
        try:
            facts = read_facts(self._best, step)
        except Damaged as error:
            raise UserError(self._damaged_best(step, error)) from error
        return facts["score"] if facts else self._best.metrics(step)["score"]  # of older code

    def _damaged_best(self, step: int, error: Exception) -> str:
        remedy = f"delete {self._folder} to train this stage anew"
        steps = self._last.all_steps()
        if earlier := [s for s in steps if s < step]:
            later = [f"last/{s}" for s in steps if s >= step]
            remedy = (
                f"delete {', '.join([*later, f'best/{step}'])} there, and the same command goes on "
                f"from step {max(earlier)}"
            )
        return f"{self._folder}: best/{step} is damaged ({error}). Put a copy back, or {remedy}"

    def _write(self, manager: ocp.CheckpointManager, step: int, tree: Any, facts: dict) -> None:
        name = manager.directory.name
        args = items(_ITEMS[name], tree, facts)
        # Forced, since Orbax would else ask whether a signal came, which `preemption` does.
        self._try(f"{name}/{step}", lambda: manager.save(step, args=args, force=True))

    def _try(self, what: str, write: Callable[[], Any]) -> None:
        try:
            write()
        # Whatever orbax and tensorstore make of a full disk, in whichever of their threads.
        except Exception as error:
            self._last.reload()
            step = self.latest_step()
            remedy = "Once there is room or permission, the same command "
            remedy += "begins anew" if step is None else f"goes on from step {step}, which is whole"
            raise UserError(
                f"{self._folder}: {what} cannot be written ({first_line(error)}). {remedy}"
            ) from error

    def _remove(self, manager: ocp.CheckpointManager, step: int, into: str) -> None:
        """Rename at once, or on gs:// take its mark, so that no half passes for a checkpoint."""
        if self._read_only:
            return
        if jax.process_index() == 0:
            source = manager.directory / str(step)
            target = self._folder / into / f"{manager.directory.name}-{step}"
            if is_remote(source):
                (source / _WHOLE).unlink(missing_ok=True)
            if into == "damaged" or not is_remote(source):
                move_folder(source, target)
            if into == "deleted":
                remove_folder(source if is_remote(source) else target.parent)
        multihost_utils.sync_global_devices(f"removed {manager.directory.name} {step}")
        manager.reload()


def read_best(folder: Path) -> dict[str, np.ndarray]:
    """The best parameters below a stage's `checkpoints` folder, by path name.

    Raises:
      UserError: there are none, or they are damaged.
    """
    arrays = read_newest(folder, "best")
    if arrays is None:
        raise UserError(_NO_BEST.format(folder=folder))
    return arrays


def has_begun(folder: Path) -> bool:
    """Tell whether a state was saved below a stage's `checkpoints` folder."""
    last = folder / "last"
    return last.is_dir() and any(path.name.isdecimal() for path in last.iterdir())


def best_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of what `read_best` reads, by path name, without reading it.

    Raises:
      UserError: see `read_best`.
    """
    path = absolute(folder) / "best"
    manager = open_manager(path, _ITEMS["best"], read_only=True) if path.is_dir() else None
    step = manager and manager.latest_step()
    if step is None:
        raise UserError(_NO_BEST.format(folder=folder))
    try:
        return stored_shapes(manager, step, _ITEMS["best"])
    except Damaged as error:
        raise UserError(f"{path}/{step}: damaged ({error})") from error
    finally:
        manager.close()


def read_newest(folder: Path, which: str) -> dict[str, np.ndarray] | None:
    """The arrays of the newest `last` or `best` below a stage's `checkpoints` folder, by path name.

    They come into the host's memory: the devices that wrote them need not be here.

    Raises:
      UserError: they are damaged.
    """
    path = absolute(folder) / which
    if not path.is_dir():
        return None
    manager = open_manager(path, _ITEMS[which], read_only=True)
    try:
        step = manager.latest_step()
        return None if step is None else read_on_host(manager, step, _ITEMS[which])
    except Damaged as error:
        raise UserError(f"{path}/{step}: damaged ({error})") from error
    finally:
        manager.close()
