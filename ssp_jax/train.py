"""The training loop of one stage. Its order makes resuming exact and must not change:

evaluate -> save (state, data iterator, progress) -> next batch -> step -> log.

Saving goes on in the background; whoever leaves the loop has to see it end, see `train_stage`.
"""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ssp_jax import preemption
from ssp_jax.batch import AVBatch
from ssp_jax.checkpoints import Checkpoints
from ssp_jax.errors import UserError
from ssp_jax.goodput import Goodput, Speed
from ssp_jax.not_finite import Dump, bad_parts, numbers_of
from ssp_jax.step_trace import StepTrace
from ssp_jax.train_state import TrainState
from ssp_jax.writers import MetricsWriter

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass
class Progress:
    """Where a loop stands besides the state and the data iterator; saved with them, as JSON.

    Attributes:
      pending: numbers of the steps since the last line of the log.
      skipped: steps so far that were not finite and changed nothing.
      evaluated: False where an evaluation is due and a signal came before or in it.
      seconds: of the stage until it was saved, see `Goodput`.
    """

    pending: list[dict[str, float]] = dataclasses.field(default_factory=list)
    skipped: int = 0
    evaluated: bool = True
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Loop:
    """What the loop needs besides the state.

    Attributes:
      train_step: (state, batch on devices, key, number) -> (state, scalars), see `make_train_step`.
      batches: endless iterator of host batches with `get_state()` and `set_state(dict)`.
      put: host batch -> batch on devices.
      evaluate: params -> {"s4/miou": ...} on validation data, or None to go without.
      score: those values -> the number that selects the best parameters.
      learning_rate: step -> rate, for the log.
      end: step to stop at. total_steps: of the stage, for the log.
      eval_first: evaluate before the first step too, so that a mistake in evaluation or in the
        starting weights shows in minutes, not hours.
      save_every: seconds after which it saves though no evaluation is due; 0: never.
      dump: keeps the batch of a step that is not finite. max_skipped: so many of these go by.
      goodput, speed: where the time goes, and what the train_step costs. trace: of some steps.
    """

    train_step: Callable
    batches: Iterator[AVBatch]
    put: Callable[[AVBatch], AVBatch]
    evaluate: Callable[[dict], dict[str, float]] | None
    score: Callable[[dict[str, float]], float]
    learning_rate: Callable[[int], float]
    checkpoints: Checkpoints
    writer: MetricsWriter
    dump: Dump
    name: str
    end: int
    total_steps: int
    eval_every: int
    eval_first: bool
    save_every: float
    log_every: int
    max_skipped: int
    seed: int
    goodput: Goodput = dataclasses.field(default_factory=Goodput)
    speed: Speed = dataclasses.field(default_factory=Speed)
    trace: StepTrace = dataclasses.field(default_factory=StepTrace)

    def run(self, state: TrainState, progress: Progress) -> TrainState:
        """Train from `state.step` to `end`; logs, evaluates and saves on the way.

        Raises:
          UserError: a step is not finite, or a checkpoint cannot be written.
          Preempted: a signal came; the state of the last step is saved.
        """
        start = step = state.number
        key, number = _key_and_number(self.seed, state.step)
        clock, fresh, scalars = Clock(start, self.total_steps), [], None
        self.goodput.count("restart")
        if self.eval_first and start == 0 and self.evaluate is not None:
            self._evaluate(start, state.params)
            self.checkpoints.wait()
            clock.pause_until_now()
        saved_at = time.monotonic()
        with contextlib.ExitStack() as stack:
            stack.callback(self.trace.finish)
            if not progress.evaluated:  # what will be saved at once is not to be cut short
                stack.enter_context(preemption.held_back())
            while True:
                due = step % self.eval_every == 0 or step == self.end
                due = due and (step > start or not progress.evaluated)
                try:
                    if preemption.asked():
                        raise preemption.Preempted
                    if due and self.evaluate is not None:
                        self._collect(fresh, state, progress)
                        self._evaluate(step, state.params)
                except preemption.Preempted as stop:
                    if step > start:
                        self._collect(fresh, state, progress)
                        self._save(state, progress, evaluated=not due)
                        self.checkpoints.wait()
                    saved = f"{self.name} is saved at step {step}" if step else ""
                    raise preemption.Preempted(saved) from stop
                if due or (step > start and self._time_to_save(step, saved_at)):
                    self._collect(fresh, state, progress)
                    self._save(state, progress, evaluated=True)
                    saved_at = time.monotonic()
                    clock.pause_until_now()
                if step == self.end:
                    break
                before = self.batches.get_state()
                with self.trace.step(step + 1, state):
                    self.goodput.count("steps")
                    try:
                        batch = next(self.batches)
                    except Exception:
                        # A signal to all of a terminal's processes ends the batches' workers, too.
                        if preemption.came(within=1.0):
                            continue
                        if step > start and jax.process_count() == 1:
                            self._collect(fresh, state, progress)
                            self._save(state, progress, evaluated=True)
                        raise
                    self.goodput.count("steps" if _is_under_way(scalars) else "input")
                    state, scalars = self.train_step(state, self.put(batch), key, number)
                step, number = step + 1, _next(number)
                self.trace.after(step, state)
                fresh.append((step, before, scalars))
                if step == start + 1:  # until here there is nothing to save
                    stack.enter_context(preemption.held_back())
                    self.goodput.count("compile")
                if step % self.log_every == 0 or step == self.end:
                    self._collect(fresh, state, progress)
                    self._log(step, progress, clock)
            self.checkpoints.wait()
            self.goodput.count("saving")
        return state

    def _time_to_save(self, step: int, saved_at: float) -> bool:
        """Tell if `save_every` is over; of several processes all get the answer of the first."""
        late = 0 < self.save_every <= time.monotonic() - saved_at
        if jax.process_count() == 1:
            return late
        if not self.save_every or step % self.log_every:  # to ask costs a round of all of them
            return False
        return bool(multihost_utils.broadcast_one_to_all(np.array(late)))

    def _evaluate(self, step: int, params: dict) -> None:
        self.goodput.count("steps")
        with preemption.let_through():
            values = self.evaluate(params)
        score = self.score(values)
        self.writer.write(step, {f"val/{name}": value for name, value in values.items()})
        self.checkpoints.save_best(step, params, score)
        self.goodput.count("evaluation")
        shown = "  ".join(f"{name} {value:.3f}" for name, value in values.items())
        _LOG.info("%s step %d  validation: %s", self.name, step, shown)

    def _save(self, state: TrainState, progress: Progress, *, evaluated: bool) -> None:
        self.goodput.count("steps")
        progress.evaluated, progress.seconds = evaluated, dict(self.goodput.seconds)
        self.writer.flush()  # whoever goes on from here writes only later steps
        saved = self.batches.get_state() | {"loop": dataclasses.asdict(progress)}
        self.checkpoints.save(state, saved)
        self.goodput.count("saving")

    def _collect(
        self, fresh: list[tuple[int, dict, dict[str, Any]]], state: TrainState, progress: Progress
    ) -> None:
        """Fetch what the last steps returned, and look whether all are finite.

        Only here: the device runs ahead of the host in between.
        """
        fetched = jax.device_get([scalars for _, _, scalars in fresh])
        for (step, before, _), scalars in zip(fresh, fetched, strict=True):
            scalars = {name: value.item() for name, value in scalars.items()}
            if scalars["applied"]:
                progress.pending.append(numbers_of(scalars))
                continue
            if progress.skipped == self.max_skipped:
                self._stop(step, before, scalars, state, progress)
            progress.skipped += 1
            _LOG.warning(
                "%s step %d is not finite and skipped, %d of at most %d: %s",
                *(self.name, step, progress.skipped, self.max_skipped),
                ", ".join(bad_parts(scalars)),
            )
        fresh.clear()

    def _stop(self, step: int, before: dict, scalars: dict, state: TrainState, progress: Progress):
        """Keep what is needed to see this step again, and say so."""
        self.batches.set_state(before)
        batch = next(self.batches)
        folder, clips, wrong = self.dump.write(step, scalars, batch, state.params)
        if not self.max_skipped and step - 1 > (self.checkpoints.latest_step() or 0):
            # The state still is what it was before this step.
            self.batches.set_state(before)
            self._save(state, progress, evaluated=True)
        self.checkpoints.wait()
        stage = self.name.split()[0]
        raise UserError(
            f"{self.name}: step {step} is not finite ({', '.join(bad_parts(scalars))})"
            + (f", after {progress.skipped} that were skipped" if progress.skipped else "")
            + f". Clips: {', '.join(clips)}."
            + (f" Not finite before anything is computed: {wrong}." if wrong else "")
            + f" {folder} has the batch; the same command goes on from step "
            f"{self.checkpoints.latest_step() or 0} and shows it again (with JAX_DEBUG_NANS=1 it "
            f"names the operation). Lower config.{stage}.optim.lr, mend these clips, or leave such "
            "steps out: --config.max_skipped=N"
        )

    def _log(self, step: int, progress: Progress, clock: "Clock") -> None:
        lines = progress.pending or [{"loss": float("nan")}]  # where all were skipped
        means = {name: float(np.mean([line[name] for line in lines])) for name in lines[0]}
        progress.pending = []
        if progress.skipped:
            means["skipped"] = progress.skipped
        if bad := self.batches.get_state().get("bad_clips"):
            means["bad_clips"] = len(bad)
        means["lr"] = float(self.learning_rate(step - 1))
        rate, left = clock.read(step)
        self.goodput.count("steps")
        speeds = self.speed.at(rate)
        self.writer.write(step, means | speeds | self.goodput.shares())
        shown = f"{rate:.2f} steps/s"
        shown += f"  {speeds['tflops']:.3g} TFLOP/s" if "tflops" in speeds else ""
        shown += f"  MFU {100 * speeds['mfu']:.1f} %" if "mfu" in speeds else ""
        _LOG.info(
            "%s step %d/%d  loss %.3f  lr %.1e  %s  %s left",
            *(self.name, step, self.total_steps, means["loss"], means["lr"], shown, left),
        )


def _is_under_way(scalars: dict[str, jax.Array] | None) -> bool:
    """Tell whether the devices still compute the step that gives these."""
    return scalars is not None and not scalars["applied"].is_ready()


def _key_and_number(seed: int, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The run's key and the number of the next step, on all devices of all processes: nothing has
    to be sent there for a step."""

    @jax.jit(out_shardings=(step.sharding, step.sharding))
    def make(step: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.random.key(seed), step + 0  # not the state's own, which is donated

    return make(step)


@jax.jit
def _next(number: jax.Array) -> jax.Array:
    return number + 1


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
