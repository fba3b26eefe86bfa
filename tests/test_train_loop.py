"""The loop, its step and its checkpoints on a model of one matrix: SIGTERM, what is not finite."""

import dataclasses
import json
import os
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssp_jax import preemption
from ssp_jax.batch import fake_batch
from ssp_jax.checkpoints import Checkpoints
from ssp_jax.errors import UserError
from ssp_jax.goodput import without_times
from ssp_jax.not_finite import Dump
from ssp_jax.sharding import make_mesh, put_batch
from ssp_jax.train import Loop, Progress
from ssp_jax.train_state import state_maker
from ssp_jax.train_step import make_train_step
from ssp_jax.writers import MetricsWriter

_MESH, _TX = make_mesh(), optax.adam(0.1)
_UIDS = [f"clip{number}" for number in range(40)]
_END = 10


def _init(key):
    return {"network": {"audio": {"kernel": jax.random.normal(key, (64, 8))}}, "bias": jnp.zeros(8)}


_TRAINED = frozenset(["network/audio/kernel", "bias"])
_STATES = state_maker(_init, _TX, _TRAINED, _MESH)


def _loss(params, batch, key):
    noise = jax.random.normal(key, (8,))
    out = batch.log_mel.mean(1) @ params["network"]["audio"]["kernel"] + params["bias"] + noise
    value = (out**2).mean()
    return value, {"loss/mask": value, "loss/other": jnp.square(params["bias"]).sum()}


class _Batches:
    """Batch number -> fake batch; those of `bad` hear what is not a number."""

    def __init__(self, bad=(), before_next=lambda number: None):
        self._next, self._bad, self._before_next = 0, bad, before_next

    def __next__(self):
        self._before_next(self._next)
        batch = fake_batch(4, seed=self._next)
        if self._next in self._bad:
            batch.log_mel[2] = np.nan
        clips = np.arange(4, dtype=np.int32) + 4 * self._next
        self._next += 1
        return dataclasses.replace(batch, clip=clips)

    def get_state(self):
        return {"next_batch": self._next}

    def set_state(self, state):
        self._next = state["next_batch"]


def train(folder: Path, batches, *, max_skipped=0, on_evaluate=lambda: None, save_every=0, **more):
    """To step 10, from what is in the folder; log lines every 3 steps, evaluations every 4.

    `more`: of the loop.
    """
    with Checkpoints(folder / "checkpoints") as checkpoints:
        return _train(folder, batches, checkpoints, max_skipped, on_evaluate, save_every, more)


def _train(folder, batches, checkpoints, max_skipped, on_evaluate, save_every, more):
    restored = checkpoints.restore(lambda step: _STATES)
    state, progress = _STATES.new(jax.random.key(0)), Progress()
    if restored:
        state, saved = restored
        batches.set_state(saved)
        progress = Progress(**saved["loop"])
    start = int(state.step)
    checkpoints.go_on_from(start if restored else -1)

    def evaluate(params):
        on_evaluate()
        return {"s4/miou": float(params["bias"].sum())}

    loop = Loop(
        train_step=make_train_step(
            _loss, _TX, _MESH, _STATES.shardings, _TRAINED, skip=max_skipped > 0
        ),
        batches=batches,
        put=lambda batch: put_batch(_MESH, batch),
        evaluate=evaluate,
        score=lambda values: values["s4/miou"],
        learning_rate=lambda step: 0.1,
        checkpoints=checkpoints,
        writer=MetricsWriter(folder, resume_step=start, evaluated=progress.evaluated),
        dump=Dump(folder / "not_finite", _UIDS, {"seed": 0}),
        name="avs",
        end=_END,
        total_steps=_END,
        eval_every=4,
        eval_first=False,
        save_every=save_every,
        log_every=3,
        max_skipped=max_skipped,
        seed=0,
        **more,
    )
    loop.goodput.go_on_from(progress.seconds)
    try:
        if start < _END or not progress.evaluated:
            state = loop.run(state, progress)
        best = checkpoints.restore_best(state.params, _STATES.shardings.params)
    finally:
        loop.writer.close()
    return jax.device_get((state, best)), lines(folder)


def lines(folder: Path) -> list[dict]:
    read = (folder / "metrics.jsonl").read_text().splitlines()
    return [without_times(json.loads(line)) for line in read]


@pytest.fixture
def sigterm(monkeypatch):
    """Sends it to this process, which listens; may be used again."""
    monkeypatch.setattr(preemption, "_PATIENCE", 1e6)
    before = {number: signal.getsignal(number) for number in preemption.SIGNALS}
    preemption.listen()

    def send():
        os.kill(os.getpid(), signal.SIGTERM)

    yield send
    forget()
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


def forget():
    """As a new process, which knows of no signal."""
    preemption._notice = preemption._Notice(wakeup=preemption._notice.wakeup)


def test_sigterm_at_any_step_saves_and_resumes_exactly(tmp_path, sigterm):
    expected, expected_lines = train(tmp_path / "whole", _Batches())
    again, again_lines = train(tmp_path / "again", _Batches())
    jax.tree.map(np.testing.assert_array_equal, again, expected)  # one seed, the same bits
    assert again_lines == expected_lines
    for step in range(_END):
        folder = tmp_path / f"step{step}"

        def before_next(number, step=step):
            if number == step:
                sigterm()

        with pytest.raises(preemption.Preempted):
            train(folder, _Batches(before_next=before_next))
        forget()
        # Before the second step nothing is to be saved; then the step goes on to its end.
        saved = [int(path.name) for path in (folder / "checkpoints/last").glob("[0-9]*")]
        assert max(saved, default=0) == (step + 1 if step else 0)
        found, found_lines = train(folder, _Batches())
        jax.tree.map(np.testing.assert_array_equal, found, expected)
        assert found_lines == expected_lines, step


def test_sigterm_in_an_evaluation_saves_what_is_not_evaluated(tmp_path, sigterm, monkeypatch):
    expected, expected_lines = train(tmp_path / "whole", _Batches())
    for number in range(3):
        folder, calls = tmp_path / f"evaluation{number}", []

        def on_evaluate(calls=calls, number=number):
            calls.append(0)
            if len(calls) == number + 1:
                sigterm()

        with pytest.raises(preemption.Preempted):
            train(folder, _Batches(), on_evaluate=on_evaluate)
        forget()
        step = (4, 8, 10)[number]
        checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
        assert checkpoints.latest_step() == step
        assert not checkpoints.finished(step)
        # Killed when that was made good, but not saved: the log has it once all the same.
        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "save", _interrupt)
            with pytest.raises(KeyboardInterrupt):
                train(folder, _Batches())
        assert lines(folder)[-1] == {"step": step, "val/s4/miou": lines(folder)[-1]["val/s4/miou"]}
        found, found_lines = train(folder, _Batches())
        jax.tree.map(np.testing.assert_array_equal, found, expected)
        assert found_lines == expected_lines


def _interrupt(*_):
    raise KeyboardInterrupt


def test_saves_by_time(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(Checkpoints, "save", _noted(saved, Checkpoints.save))
    expected, expected_lines = train(tmp_path / "never", _Batches())
    assert saved == [4, 8, 10]  # with each evaluation
    saved.clear()
    found, found_lines = train(tmp_path / "always", _Batches(), save_every=1e-9)
    assert saved == list(range(1, 11))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert found_lines == expected_lines
    saved.clear()
    train(tmp_path / "late", _Batches(), save_every=1e9)
    assert saved == [4, 8, 10]


def _noted(saved, save):
    def noting(self, state, progress):
        saved.append(int(state.step))
        save(self, state, progress)

    return noting


def test_what_was_saved_by_time_is_gone_on_from(tmp_path, monkeypatch):
    expected, expected_lines = train(tmp_path / "whole", _Batches())

    def kill(number):
        if number == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", _Batches(before_next=kill), save_every=1e-9)
    checkpoints = Checkpoints(tmp_path / "killed/checkpoints", read_only=True)
    assert checkpoints.latest_step() == 6
    found, found_lines = train(tmp_path / "killed", _Batches(), save_every=1e-9)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert found_lines == expected_lines


def test_data_that_cannot_be_read_cost_no_step(tmp_path):
    def fail(number):
        if number == 6:
            raise UserError("clip7 cannot be read")

    with pytest.raises(UserError, match="clip7"):
        train(tmp_path, _Batches(before_next=fail))
    # The last evaluation was after step 4.
    assert Checkpoints(tmp_path / "checkpoints", read_only=True).latest_step() == 6


def test_a_step_that_is_not_finite_stops_with_all_that_shows_it_again(tmp_path):
    for _ in range(2):  # the second goes on just before that step
        with pytest.raises(UserError) as stop:
            train(tmp_path, _Batches(bad=(5,)))
        message = str(stop.value)
        assert "avs: step 6 is not finite (grad_norm, loss, loss/mask, " in message
        assert "gradient of bias, gradient of network/audio" in message
        assert "loss/other" not in message
        assert "Clips: clip20, clip21, clip22, clip23." in message
        assert "Not finite before anything is computed: the batch's log_mel." in message
        assert "goes on from step 5" in message
    folder = tmp_path / "not_finite" / "step-0000006"
    facts = json.loads((folder / "step.json").read_text())
    assert (facts["step"], facts["numbers"]["loss"]) == (6, "nan")
    with np.load(folder / "batch-0.npz", allow_pickle=False) as batch:
        assert np.isnan(batch["log_mel"][2]).all()
        np.testing.assert_array_equal(batch["frames"], fake_batch(4, seed=5).frames)
    checkpoints = Checkpoints(tmp_path / "checkpoints", read_only=True)
    state, saved = checkpoints.restore(lambda step: _STATES)
    assert (int(state.step), saved["next_batch"]) == (5, 5)
    assert int(state.opt_state[0].count) == 5
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_parameters_that_are_not_finite_are_named(tmp_path, monkeypatch):
    def init(key):
        return _init(key) | {"bias": jnp.full(8, jnp.inf)}

    monkeypatch.setattr(f"{__name__}._STATES", state_maker(init, _TX, _TRAINED, _MESH))
    with pytest.raises(UserError, match=r"step 1 .* before anything is computed: bias\. .*step 0"):
        train(tmp_path, _Batches())


def test_steps_that_are_not_finite_are_skipped_and_counted(tmp_path, sigterm):
    (state, _), found = train(tmp_path / "whole", _Batches(bad=(1, 2, 3, 6)), max_skipped=4)
    assert int(state.step) == _END
    assert int(state.opt_state[0].count) == _END - 4
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    logged = {x["step"]: (x.get("skipped", 0), x["loss"]) for x in found if "loss" in x}
    assert [logged[step][0] for step in (3, 6, 9, 10)] == [2, 3, 4, 4]
    assert all(np.isfinite(loss) for _, loss in logged.values())

    # The count goes on where the run did.
    def before_next(number):
        if number == 4:
            sigterm()

    bad = (1, 2, 3, 6)
    with pytest.raises(preemption.Preempted):
        train(tmp_path / "two", _Batches(bad=bad, before_next=before_next), max_skipped=4)
    forget()
    (resumed, _), lines_ = train(tmp_path / "two", _Batches(bad=bad), max_skipped=4)
    jax.tree.map(np.testing.assert_array_equal, resumed, state)
    assert lines_ == found
    with pytest.raises(UserError, match=r"step 7 is not finite .*, after 3 that were skipped"):
        train(tmp_path / "fewer", _Batches(bad=bad), max_skipped=3)


def test_all_of_a_log_interval_may_be_skipped(tmp_path):
    _, found = train(tmp_path, _Batches(bad=(3, 4, 5)), max_skipped=3)
    assert next(x for x in found if x["step"] == 6 and "loss" in x)["loss"] is None
