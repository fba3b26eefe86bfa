"""What a config's trackers are told, and that none of them stops a training."""

import importlib.util
import json
import logging
import sys
import types

import pytest
from ml_collections import ConfigDict

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
