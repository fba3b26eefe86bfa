"""A run in small, stopped at any moment by test_stopping.py: `main(FOLDER[, NUMBER, PORT])`.

Builds data, trains two stages on a model of one matrix, scores; through the project's own loop,
checkpoints and handling of signals, alone or as process NUMBER of two. Prints what it begins.
"""

import dataclasses
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

from ssp_jax import preemption
from ssp_jax.batch import fake_batch
from ssp_jax.checkpoints import Checkpoints
from ssp_jax.command_line import reported, show_own_log
from ssp_jax.files import write_whole
from ssp_jax.not_finite import Dump
from ssp_jax.processes import in_turn, is_first, start
from ssp_jax.sharding import make_mesh, put_batch
from ssp_jax.train import Loop, Progress
from ssp_jax.train_state import state_maker
from ssp_jax.train_step import compile_once, make_train_step
from ssp_jax.writers import MetricsWriter

STAGES = ("avs", "avss")
END, EVAL_EVERY = 24, 8
_TRAINED = frozenset(["kernel", "bias"])


def _init(key):
    return {"kernel": jax.random.normal(key, (64, 8)), "bias": jnp.zeros(8)}


def _loss(params, batch, key):
    out = batch.log_mel.mean(1) @ params["kernel"] + params["bias"]
    for number in range(120):  # something to compile
        out = jnp.tanh(out + 0.01 * number) + out**2 / (1 + out**2)
    value = ((out + jax.random.normal(key, (8,))) ** 2).mean()
    return value, {"loss/mask": value}


class _Batches:
    """Batch number -> this process's share of a fake batch, in a while."""

    def __init__(self):
        self._next = 0

    def __next__(self):
        time.sleep(0.02)
        batch = fake_batch(4 // jax.process_count(), seed=self._next)
        clips = np.arange(len(batch.clip), dtype=np.int32)
        self._next += 1
        return dataclasses.replace(batch, clip=clips)

    def get_state(self):
        return {"next_batch": self._next}

    def set_state(self, state):
        self._next = state["next_batch"]


class _Later:
    """A part of a checkpoint that is long in the writing, as large arrays are."""

    def result(self, timeout=None):
        del timeout
        time.sleep(0.3)


async def _save_slowly(self, *args, **kwargs):
    return [*(await _save(self, *args, **kwargs)), _Later()]


_save = ocp.StandardCheckpointHandler.async_save
ocp.StandardCheckpointHandler.async_save = _save_slowly


class _Checkpoints(Checkpoints):
    def save(self, state, progress):
        _begins("saving")
        super().save(state, progress)


def _begins(what: str) -> None:
    print(f"begins {what}", flush=True)


def _train(folder: Path) -> None:
    mesh, tx = make_mesh(), optax.adam(0.01)
    states = state_maker(_init, tx, _TRAINED, mesh)

    def evaluate(params):
        _begins("evaluating")
        for _ in preemption.until_asked(range(10)):
            time.sleep(0.02)
        return {"miou": float(jnp.abs(params["bias"]).sum())}

    with _Checkpoints(folder / "checkpoints") as checkpoints:
        restored = checkpoints.restore(lambda step: states)
        state, saved = restored or (states.new(jax.random.key(0)), {"next_batch": 0})
        progress, step = Progress(**saved.get("loop", {})), int(state.step)
        print(f"{folder.name}: from step {step}", flush=True)
        checkpoints.go_on_from(step if restored else -1)
        if step == END and progress.evaluated:
            return
        batches = _Batches()
        batches.set_state(saved)
        writer = MetricsWriter(folder, resume_step=step, evaluated=progress.evaluated)
        _begins("compiling")
        loop = Loop(
            train_step=compile_once(
                make_train_step(_loss, tx, mesh, states.shardings, _TRAINED), folder.name
            ),
            batches=batches,
            put=lambda batch: put_batch(mesh, batch),
            evaluate=evaluate,
            score=lambda values: values["miou"],
            learning_rate=lambda step: 0.01,
            checkpoints=checkpoints,
            writer=writer,
            dump=Dump(folder / "not_finite", ["clip"] * 4, {}),
            name=folder.name,
            end=END,
            total_steps=END,
            eval_every=EVAL_EVERY,
            eval_first=False,
            save_every=0,
            log_every=1,
            max_skipped=0,
            seed=0,
        )
        loop.run(state, progress)


def main(folder: str, number: str = "", port: str = "") -> None:
    """See the module."""
    show_own_log()
    folder = Path(folder)
    with reported():
        if number:
            start(f"localhost:{port}", 2, int(number))
            preemption.listen()
        _begins("building data")
        in_turn(lambda: _build(folder / "data"))
        for name in STAGES:
            _begins("between stages")
            for _ in preemption.until_asked(range(10)):
                time.sleep(0.01)
            _train(folder / name)
        _begins("scoring")
        for _ in preemption.until_asked(range(10)):
            time.sleep(0.02)
        print("came to the end", flush=True)


def _build(path: Path) -> None:
    if is_first() and not path.exists():
        time.sleep(0.5)
        write_whole(path, "data")


if __name__ == "__main__":
    main(*sys.argv[1:])
