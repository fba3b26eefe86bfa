"""Other places for a run's numbers, by config.trackers: TensorBoard and Weights & Biases.

None of them can stop a training: what fails is told once, and left out from then on.
"""

import importlib.util
import logging
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from ml_collections import ConfigDict
from tensorboardX import SummaryWriter

from ssp_jax.errors import UserError
from ssp_jax.files import absolute, is_remote, write_whole
from ssp_jax.processes import is_first

NAMES = ("tensorboard", "wandb")
_WAIT = 60  # seconds, for a service that does not answer
_LOG = logging.getLogger(__name__)


class Tracker(Protocol):
    """Takes scalars of steps that do not go back."""

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Add the scalars of a step."""

    def close(self) -> None:
        """Finish writing."""


def tracker_names(words: str) -> list[str]:
    """The trackers of `config.trackers`, as 'tensorboard,wandb'; none of ''.

    Raises:
      UserError: an unknown one, or its package is not installed.
    """
    names = [word.strip() for word in words.split(",") if word.strip()]
    if unknown := [name for name in names if name not in NAMES]:
        raise UserError(
            f"config.trackers={words!r}: unknown {', '.join(unknown)}; expected some of "
            f"{', '.join(NAMES)}, separated by commas, or nothing"
        )
    if "wandb" in names and importlib.util.find_spec("wandb") is None:
        raise UserError(
            f"config.trackers={words!r}: the package wandb is not installed. Do: pip install "
            '"ssp-jax[wandb]", or leave wandb out'
        )
    return names


class Trackers:
    """All that a config names, of one stage."""

    def __init__(self, config: ConfigDict, folder: Path, resume_step: int = 0):
        """
        Args:
          folder: of the stage. resume_step: where its training begins or goes on.

        Raises:
          UserError: see `tracker_names`.
        """
        self._open: dict[str, Tracker] = {}
        for name in tracker_names(config.trackers) if is_first() else ():
            make = TensorBoard if name == "tensorboard" else WandB
            tracker = self._try(name, lambda make=make: make(config, folder, resume_step))
            if tracker is not None:
                self._open[name] = tracker

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Tell all of them."""
        for name, tracker in list(self._open.items()):
            self._try(name, lambda tracker=tracker: tracker.write(step, scalars))

    def close(self) -> None:
        """Finish writing; returns after a while even where a service does not answer."""
        for name, tracker in list(self._open.items()):
            self._try(name, tracker.close)
        self._open = {}

    def _try(self, name: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        # Whatever a service, its client or a full disk raises.
        except Exception as error:
            self._open.pop(name, None)
            _LOG.warning(
                "%s fails and is left out from now on (%s: %s); metrics.jsonl has all numbers",
                *(name, type(error).__name__, error),
            )
            return None


class TensorBoard:
    """Events in the stage's folder `events`."""

    def __init__(self, config: ConfigDict, folder: Path, resume_step: int):
        """Hide what an earlier start told of `resume_step` and later steps."""
        del config
        self._events = SummaryWriter(str(folder / "events"), purge_step=resume_step)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """See `Tracker`."""
        for name, value in scalars.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """See `Tracker`."""
        self._events.close()


class WandB:
    """A run of Weights & Biases for each stage, grouped by the run's folder.

    Its id is kept in the stage's `wandb_id`, so that a training that goes on continues it. Steps
    that are done again have the same numbers, and wandb leaves them out. The variables of wandb
    itself decide on the rest: WANDB_MODE=offline, WANDB_PROJECT, WANDB_ENTITY, ...
    """

    def __init__(self, config: ConfigDict, folder: Path, resume_step: int):
        """Starts it, or raises where there is no account or no answer within a minute."""
        del resume_step
        import wandb

        path = folder / "wandb_id"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, uuid.uuid4().hex + "\n")
        group = absolute(folder).parent.name
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "ssp_jax"),
            id=path.read_text().strip(),
            resume="allow",
            dir=None if is_remote(folder) else str(folder),  # None: where wandb itself puts it
            group=group,
            name=f"{group}/{folder.name}",
            config=config.to_dict(),
            settings=wandb.Settings(
                console="off", login_timeout=_WAIT, init_timeout=_WAIT, finish_timeout=_WAIT
            ),
        )

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """See `Tracker`."""
        self._run.log(scalars, step=step)

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()
