"""A profiler's trace of some steps of a training, for XProf and TensorBoard."""

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from ssp_jax.files import copy_below, is_remote, remove_folder
from ssp_jax.processes import is_first

_LOG = logging.getLogger(__name__)


class StepTrace:
    """Traces steps `start` to `start + steps - 1` of a stage, as far as this process does them.

    Of several processes the first traces itself and its own devices: all do the same steps. What
    fails is told once, and stops no training.
    """

    def __init__(self, folder: Path = Path(), start: int = 1, steps: int = 0, name: str = ""):
        """
        Args:
          folder: where the trace goes. start, steps: as config.profile; 0 steps are none.
          name: of the stage, for the log.
        """
        self._folder, self._name = folder, name
        self._steps = range(start, start + steps) if is_first() else range(0)
        self._written: Path | None = None  # where to, while it traces
        self._done = 0

    @contextlib.contextmanager
    def step(self, number: int, state: Any) -> Iterator[None]:
        """Around a step and the wait for its batch.

        Args:
          number: of the step; a stage's first is 1.
          state: of the step before, waited for where the trace begins.
        """
        if number in self._steps and self._written is None:
            self._try(lambda: self._begin(state))
        if self._written is None:
            yield
            return
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def after(self, number: int, state: Any) -> None:
        """After a step, whose state is waited for where the trace ends."""
        if self._written is None:
            return
        self._done += 1
        if number + 1 not in self._steps:
            jax.block_until_ready(state)
            self.finish()

    def finish(self) -> None:
        """End a trace that has begun; to be called on every way out of the training's loop."""
        if self._written is not None:
            self._try(self._end)

    def _begin(self, state: Any) -> None:
        jax.block_until_ready(state)
        # The profiler does not write to gs://.
        local = Path(tempfile.mkdtemp()) if is_remote(self._folder) else self._folder
        jax.profiler.start_trace(str(local))
        self._written = local

    def _end(self) -> None:
        written, self._written = self._written, None
        jax.profiler.stop_trace()
        if written != self._folder:
            copy_below(written, self._folder)
            remove_folder(written)
        _LOG.info(
            "%s: a trace of %d steps is in %s; to look at it: pip install xprof && xprof "
            "--logdir=%s",
            *(self._name, self._done, self._folder, self._folder),
        )

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        # Whatever a driver that forbids counters, a full disk or another trace raises.
        except Exception as error:
            self._steps = range(0)
            _LOG.warning(
                "%s: its steps cannot be traced (%s: %s); the training goes on",
                *(self._name, type(error).__name__, error),
            )
