"""Traces of some steps: which steps, where they end, and what they cannot stop."""

import gzip
import json
import time

import jax
import numpy as np
import pytest

from ssp_jax import preemption
from ssp_jax.step_trace import StepTrace
from tests.test_train_loop import _Batches, forget, sigterm, train

__all__ = ["sigterm"]  # a fixture


def _traced(folder):
    """Numbers of the steps in each trace below a folder."""
    traces = []
    for path in sorted(folder.rglob("*.trace.json.gz")):
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
        numbers = {int(e["args"]["step_num"]) for e in events if e.get("name") == "train"}
        assert path.with_name(path.name.replace(".trace.json.gz", ".xplane.pb")).exists()
        traces.append(sorted(numbers))
    return traces


def test_steps_are_traced(tmp_path, caplog):
    expected = train(tmp_path / "plain", _Batches())
    with caplog.at_level("INFO", "ssp_jax"):
        found = train(
            tmp_path / "run", _Batches(), trace=StepTrace(tmp_path / "profile", 6, 2, "avs")
        )
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert _traced(tmp_path / "profile") == [[6, 7]]
    told = [line for line in caplog.messages if "trace" in line]
    assert [line.split(";")[0] for line in told] == [
        f"avs: a trace of 2 steps is in {tmp_path / 'profile'}"
    ]
    # One that goes on behind these steps has none.
    train(tmp_path / "run", _Batches(), trace=StepTrace(tmp_path / "profile", 6, 2, "avs"))
    assert len(_traced(tmp_path / "profile")) == 1


def test_a_run_that_stops_among_traced_steps_ends_the_trace(tmp_path, sigterm, monkeypatch):
    def before_next(number):
        if number == 6:
            sigterm()

    def trace():
        return StepTrace(tmp_path / "profile", 6, 4, "avs")

    with pytest.raises(preemption.Preempted):
        train(tmp_path / "run", _Batches(before_next=before_next), trace=trace())
    forget()
    assert _traced(tmp_path / "profile") == [[6, 7]]
    time.sleep(1.1)  # the profiler names its folders by the second
    train(tmp_path / "run", _Batches(), trace=trace())
    assert _traced(tmp_path / "profile") == [[6, 7], [8, 9]]
    # Another process than the first of several traces nothing.
    monkeypatch.setattr("ssp_jax.step_trace.is_first", lambda: False)
    train(tmp_path / "other", _Batches(), trace=StepTrace(tmp_path / "none", 1, 4, "avs"))
    assert not (tmp_path / "none").exists()


def test_what_the_profiler_refuses_stops_no_training(tmp_path, caplog):
    jax.profiler.start_trace(str(tmp_path / "another"))
    try:
        with caplog.at_level("WARNING", "ssp_jax"):
            train(tmp_path / "run", _Batches(), trace=StepTrace(tmp_path / "mine", 2, 3, "avs"))
    finally:
        jax.profiler.stop_trace()
    assert len(caplog.messages) == 1
    assert "avs: its steps cannot be traced (RuntimeError: Profile has al" in caplog.messages[0]
