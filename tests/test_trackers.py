"""What a config's trackers are told, and that none of them stops a training."""

import importlib.util
import json
import logging
import struct
import sys
import types

import pytest
from ml_collections import ConfigDict
from tensorboardX.proto.event_pb2 import Event, SessionLog

from ssp_jax.errors import UserError
from ssp_jax.trackers import Trackers, tracker_names
from ssp_jax.writers import MetricsWriter


class Service:
    """Of the package wandb what is used: runs by id, as its server would have them."""

    def __init__(self):
        self.runs, self.arguments, self.broken = {}, [], False

    def Settings(self, **settings):
        return settings

    def init(self, **arguments):
        if self.broken:
            raise RuntimeError("no answer")
        self.arguments.append(arguments)
        steps = self.runs.setdefault(arguments["id"], {})

        def log(scalars, step):
            if self.broken:
                raise RuntimeError("no answer")
            steps.setdefault(step, {}).update(scalars)

        return types.SimpleNamespace(log=log, finish=lambda: steps.setdefault("finished", True))


@pytest.fixture
def service(monkeypatch):
    service = Service()
    module = types.ModuleType("wandb")
    module.__spec__ = importlib.util.spec_from_loader("wandb", None)
    module.init, module.Settings = service.init, service.Settings
    monkeypatch.setitem(sys.modules, "wandb", module)
    return service


def writer(words, folder, step=0):
    config = ConfigDict({"trackers": words, "seed": 3})
    return MetricsWriter(folder, resume_step=step, trackers=Trackers(config, folder, step))


def test_a_run_that_goes_on_is_the_same_run_there(service, tmp_path):
    folder = tmp_path / "run" / "avs"
    first = writer("tensorboard, wandb", folder)
    first.write(1, {"loss": 2.0})
    first.write(1, {"val/s4/miou": 0.5})
    first.close()
    second = writer("tensorboard, wandb", folder, step=1)
    second.write(2, {"loss": 1.0})
    second.close()
    (steps,) = service.runs.values()
    assert steps == {
        1: {"loss": 2.0, "val/s4/miou": 0.5},
        2: {"loss": 1.0},
        "finished": True,
    }
    for arguments in service.arguments:
        assert (arguments["name"], arguments["group"]) == ("run/avs", "run")
        assert (arguments["resume"], arguments["config"]["seed"]) == ("allow", 3)
    assert list((folder / "events").iterdir())
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 1, 2]


def shown(folder):
    """[(step, name, value)] of the events in a folder, as TensorBoard shows them.

    Where a writer says that it starts at a step, TensorBoard forgets what it has of that step and
    later ones (its `EventAccumulator`).
    """
    points = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])  # between checksums of four bytes
            data = data[16 + length :]
            if event.session_log.status == SessionLog.START:
                points = [point for point in points if point[0] < event.step]
            points += [(event.step, x.tag, x.simple_value) for x in event.summary.value]
    return points


@pytest.mark.parametrize(("resumed", "evaluated"), [(0, True), (2, True), (2, False), (3, True)])
def test_tensorboard_shows_what_metrics_jsonl_holds(tmp_path, resumed, evaluated, monkeypatch):
    def train(start, evaluated=True):
        # The seconds of their beginning order the files.
        monkeypatch.setattr("time.time", lambda: 1000.0 + len(list(tmp_path.glob("events/*"))))
        config = ConfigDict({"trackers": "tensorboard", "seed": 3})
        trackers = Trackers(config, tmp_path, start)
        ours = MetricsWriter(tmp_path, resume_step=start, evaluated=evaluated, trackers=trackers)
        if not start or not evaluated:
            ours.write(start, {"val/miou": 0.5})
        for step in range(start + 1, 5):
            ours.write(step, {"loss": float(step)})
            ours.write(step, {"val/miou": 0.5 + step})
        ours.close()

    train(0)
    train(resumed, evaluated)
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    held = [(x["step"], *item) for x in lines for item in x.items() if item[0] != "step"]
    expected = [(0, "val/miou", 0.5)]
    for step in range(1, 5):
        again = 0.5 if (step, evaluated) == (resumed, False) else 0.5 + step
        expected += [(step, "loss", float(step)), (step, "val/miou", again)]
    assert held == expected
    assert shown(tmp_path / "events") == expected


def test_a_tracker_that_fails_is_left_out_and_told_once(service, tmp_path, caplog):
    caplog.set_level(logging.WARNING, "ssp_jax")
    ours = writer("wandb", tmp_path)
    service.broken = True
    for step in (1, 2):
        ours.write(step, {"loss": 2.0})
    ours.close()
    assert caplog.text.count("wandb fails and is left out from now on") == 1
    assert "no answer" in caplog.text
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    writer("wandb", tmp_path).write(3, {"loss": 1.0})  # at its start, too
    assert caplog.text.count("wandb fails") == 2


def test_what_cannot_be_is_said_before_a_training(monkeypatch):
    assert tracker_names("") == []
    with pytest.raises(UserError, match="unknown mlflow; expected some of tensorboard, wandb"):
        tracker_names("tensorboard,mlflow")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'not installed. Do: pip install "ssp-jax\[wandb\]"'):
        tracker_names("wandb")
