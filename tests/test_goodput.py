"""Where the time goes: the stopwatch and the loop, FLOPs with loops, peaks."""

import json
import subprocess
import sys
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from benchmarks.device_peaks import PEAKS
from ssp_jax import goodput, preemption
from ssp_jax.checkpoints import Checkpoints
from ssp_jax.devices import peak_flops
from ssp_jax.flops import step_flops
from ssp_jax.goodput import KINDS, Goodput, Speed, process_began, without_times
from tests.test_train_loop import _STATES, _Batches, forget, sigterm, train

__all__ = ["sigterm"]  # a fixture


@pytest.fixture
def clock(monkeypatch):
    """What the stopwatch takes for the time; clock.now may be set."""
    fake = SimpleNamespace(now=100.0)
    monkeypatch.setattr(goodput.time, "monotonic", lambda: fake.now)
    return fake


def test_every_second_is_of_one_kind(clock):
    times = Goodput(began=90.0)
    times.count("restart")
    for kind, seconds in (("compile", 20), ("steps", 30), ("input", 5), ("steps", 10)):
        clock.now += seconds
        times.count(kind)
    with times.left_out():
        clock.now += 1000
    clock.now += 25
    times.count("evaluation")
    assert times.seconds == dict.fromkeys(KINDS, 0.0) | {
        "restart": 10,
        "compile": 20,
        "steps": 40,
        "input": 5,
        "evaluation": 25,
    }
    assert times.shares()["goodput/steps"] == 0.4
    assert sum(times.shares().values()) == pytest.approx(1)
    assert str(times) == (
        "0:01:40 of wall time: steps 40.0 %, compile 20.0 %, input 5.0 %, evaluation 25.0 %, "
        "saving 0.0 %, restart 10.0 %"
    )


def test_a_stage_that_goes_on_counts_its_earlier_starts(clock):
    times = Goodput()
    clock.now += 50  # reads data, weights, a checkpoint
    times.go_on_from({"steps": 100.0, "restart": 50.0})
    times.count("restart")
    assert (times.seconds["steps"], times.seconds["restart"]) == (100.0, 100.0)
    times.go_on_from({})  # the next stage
    clock.now += 1
    times.count("restart")
    assert times.shares()["goodput/restart"] == 1.0


def test_a_process_knows_when_it_began():
    program = (
        "import time; time.sleep(1); from ssp_jax.goodput import process_began; "
        "print(time.monotonic() - process_began())"
    )
    start = time.monotonic()
    age = float(subprocess.check_output([sys.executable, "-c", program]))
    known = 1 if sys.platform == "linux" else 0
    assert known <= age <= time.monotonic() - start + 0.1
    assert process_began() < time.monotonic()


def _loop(x, turns):
    return jax.lax.scan(lambda c, _: (jnp.tanh(c @ c), None), x, None, length=turns)[0] @ x


@pytest.mark.parametrize("turns", [1, 7])
def test_flops_of_a_loop_are_those_of_all_its_turns(turns):
    traced = jax.jit(lambda x: _loop(x, turns)).trace(jnp.ones((64, 64)))
    products = 2 * 64**3 * (turns + 1)
    compiled = traced.lower().compile()
    assert step_flops(traced, compiled) == pytest.approx(products, rel=0.02)
    # XLA itself has a loop's body once.
    assert compiled.cost_analysis()["flops"] == pytest.approx(2 * 64**3 * 2, rel=0.02)


def test_flops_of_convolutions_in_a_loop():
    def convolve(x, kernel):
        def body(x, _):
            dimensions = ("NHWC", "HWIO", "NHWC")
            return jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=dimensions
            ), None

        return jax.lax.scan(body, x, None, length=5)[0]

    traced = jax.jit(convolve).trace(jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 4)))
    compiled = traced.lower().compile()
    once = compiled.cost_analysis()["flops"]
    assert step_flops(traced, compiled) == pytest.approx(5 * once)


def test_flops_are_those_of_the_platform_that_was_compiled_for():
    def product(x):
        return x @ x

    def choose(x):
        return jax.lax.platform_dependent(x, tpu=lambda x: _loop(x, 100), default=product)

    def twice(x):  # so that a loop of this platform is there to be counted
        return jax.lax.scan(lambda x, _: (choose(x), None), x, None, length=2)[0]

    traced = jax.jit(twice).trace(jnp.ones((64, 64)))
    assert step_flops(traced, traced.lower().compile()) == pytest.approx(2 * 2 * 64**3, rel=0.02)


@pytest.mark.parametrize("cost", [None, {}, {"flops": -1.0}])
def test_where_xla_counts_nothing_there_are_no_flops(cost):
    traced = jax.jit(lambda x: x @ x).trace(jnp.ones((2, 2)))
    assert step_flops(traced, SimpleNamespace(cost_analysis=lambda: cost)) is None


def test_speed_says_what_is_known(monkeypatch):
    speed = Speed()
    assert speed.at(2.0) == {"steps_per_second": 2.0}
    speed.flops = 5e12
    assert speed.at(2.0) == {"steps_per_second": 2.0, "tflops": 10.0}  # a CPU has no peak
    tpu = SimpleNamespace(device_kind="TPU v5 lite")
    monkeypatch.setattr(jax, "devices", lambda: [tpu])
    assert speed.at(2.0)["mfu"] == pytest.approx(10 / 197)
    assert peak_flops("a new device") is None
    assert all(peaks.flops for peaks in PEAKS.values())


def test_what_depends_on_the_hour_is_left_out():
    speed = Speed(1.0).at(2.0) | {"mfu": 0.5}
    numbers = {"step": 3, "loss": 0.5, "val/s4/miou": 0.25}
    assert without_times(numbers | speed | Goodput().shares()) == numbers


def test_the_time_of_all_starts_is_counted(tmp_path, sigterm):
    def slow(number):
        time.sleep(0.05)
        if number == 6:
            sigterm()

    def on_evaluate():
        time.sleep(0.3)

    with pytest.raises(preemption.Preempted):
        train(tmp_path, _Batches(before_next=slow), on_evaluate=on_evaluate)
    forget()
    checkpoints = Checkpoints(tmp_path / "checkpoints", read_only=True)
    _, saved = checkpoints.restore(lambda step: _STATES)
    before = saved["loop"]["seconds"]
    assert before["evaluation"] >= 0.3
    assert 0.05 <= before["input"] <= before["input"] + before["steps"] < 10
    again = Goodput(began=time.monotonic() - 100)  # as if the start took long
    train(tmp_path, _Batches(), on_evaluate=on_evaluate, goodput=again)
    assert again.seconds["restart"] >= before["restart"] + 100
    assert again.seconds["evaluation"] >= before["evaluation"] + 0.6
    assert again.seconds["compile"] > before["compile"] > 0
    assert again.seconds["saving"] > before["saving"] > 0
    read = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    last = [line for line in read if "loss" in line][-1]
    assert sum(last[f"goodput/{kind}"] for kind in KINDS) == pytest.approx(1)
    assert last["goodput/restart"] > 0.9


def test_a_wait_beside_a_step_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr("ssp_jax.train._is_under_way", lambda scalars: scalars is not None)
    times = Goodput()
    train(tmp_path, _Batches(before_next=lambda number: time.sleep(0.2)), goodput=times)
    assert times.seconds["steps"] >= 9 * 0.2
    assert 0.2 <= times.seconds["input"] < 1  # of the first batch
