"""The training loop of one stage. Its order makes resuming exact and must not change:

evaluate -> save (state, data iterator) -> next batch -> step -> log.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from ssp_jax.batch import AVBatch
from ssp_jax.checkpoints import Checkpoints
from ssp_jax.errors import UserError
from ssp_jax.train_state import TrainState
from ssp_jax.writers import MetricsWriter

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass
class Loop:
    """What the loop needs besides the state.

    Attributes:
      train_step: (state, batch on devices, key) -> (state, scalars).
      batches: endless iterator of host batches with `get_state()` and `set_state(dict)`.
      put: host batch -> batch on devices.
      evaluate: params -> {"s4/miou": ...} on validation data, or None to go without.
      score: those values -> the number that selects the best parameters.
      learning_rate: step -> rate, for the log.
      end: step to stop at. total_steps: of the stage, for the log.
      eval_first: evaluate before the first step too, so that a mistake in evaluation or in the
        starting weights shows in minutes, not hours.
    """

    train_step: Callable
    batches: Iterator[AVBatch]
    put: Callable[[AVBatch], AVBatch]
    evaluate: Callable[[dict], dict[str, float]] | None
    score: Callable[[dict[str, float]], float]
    learning_rate: Callable[[int], float]
    checkpoints: Checkpoints
    writer: MetricsWriter
    name: str
    end: int
    total_steps: int
    eval_every: int
    eval_first: bool
    log_every: int
    seed: int

    def run(self, state: TrainState) -> TrainState:
        """Train from `state.step` to `end`; logs, evaluates and saves on the way.

        Raises:
          UserError: the loss is no longer finite.
        """
        key = jax.random.key(self.seed)
        start = step = int(state.step)
        clock, pending = Clock(start, self.total_steps), []
        if self.eval_first and start == 0 and self.evaluate is not None:
            self._evaluate(start, state.params)
            clock.pause_until_now()
        while True:
            due = step % self.eval_every == 0 or step == self.end
            if due and step > start:
                if self.evaluate is not None:
                    self._evaluate(step, state.params)
                self.checkpoints.save(state, self.batches.get_state())
                clock.pause_until_now()
            if step == self.end:
                break
            batch = next(self.batches)
            state, scalars = self.train_step(state, self.put(batch), key)
            step += 1
            pending.append(scalars)
            if step % self.log_every == 0 or step == self.end:
                self._log(step, pending, clock)
                pending = []
        self.checkpoints.wait()
        return state

    def _evaluate(self, step: int, params: dict) -> None:
        values = self.evaluate(params)
        score = self.score(values)
        self.writer.write(step, {f"val/{name}": value for name, value in values.items()})
        self.checkpoints.save_best(step, params, score)
        shown = "  ".join(f"{name} {value:.3f}" for name, value in values.items())
        _LOG.info("%s step %d  validation: %s", self.name, step, shown)

    def _log(self, step: int, pending: list[dict[str, Any]], clock: "Clock") -> None:
        # Fetched only here: the device runs ahead of the host in between.
        fetched = jax.device_get(pending)
        means = {name: float(np.mean([line[name] for line in fetched])) for name in fetched[0]}
        for number, line in enumerate(fetched):
            if not np.isfinite(line["loss"]):
                raise UserError(
                    f"{self.name}: the loss is {line['loss']} at step "
                    f"{step - len(fetched) + number + 1}; the last checkpoint is of step "
                    f"{self.checkpoints.latest_step()}. Lower config.{self.name}.optim.lr"
                )
        means["lr"] = float(self.learning_rate(step - 1))
        rate, left = clock.read(step)
        means["steps_per_second"] = rate
        self.writer.write(step, means)
        _LOG.info(
            "%s step %d/%d  loss %.3f  lr %.1e  %.2f steps/s  %s left",
            *(self.name, step, self.total_steps, means["loss"], means["lr"], rate, left),
        )


class Clock:
    """Steps per second without evaluation and saving, and the time left."""

    def __init__(self, step: int, steps: int):
        self._step, self._steps, self._time = step, steps, time.perf_counter()

    def pause_until_now(self) -> None:
        """Do not count the time since the last reading."""
        self._time = time.perf_counter()

    def read(self, step: int) -> tuple[float, str]:
        """(steps per second since the last reading, time left as 'm:ss')."""
        now = time.perf_counter()
        rate = (step - self._step) / max(now - self._time, 1e-9)
        self._step, self._time = step, now
        seconds = int((self._steps - step) / max(rate, 1e-9))
        return rate, f"{seconds // 60}:{seconds % 60:02d}"
