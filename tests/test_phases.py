"""Plans of training: what they freeze, where they start; and both phases of AAVS run."""

import re

import jax
import numpy as np
import pytest

from configs import avss, s4
from ssp_jax.checkpoints import Checkpoints
from ssp_jax.data.datasets import open_datasets
from ssp_jax.errors import UserError
from ssp_jax.goodput import Goodput
from ssp_jax.init_from import read_weights
from ssp_jax.phases import plan_phases
from ssp_jax.stage import Stage
from ssp_jax.stage_training import train_stage
from ssp_jax.train_state import split_trained
from tests.tiny_run import get_config


def aavs_config(prepared, folder):
    """A binary stage of AAVS's two phases, with its adapters, from the weights of `folder`."""
    config = get_config(prepared)
    config.stages = "avs"
    config.model.adapters = True
    config.init_from = str(folder)
    stage = config.avs
    stage.decoder_adapter, stage.phases = "replace", "aavs"
    stage.init_new, stage.eval_first = ("adapter/", "sound_classifier", "audio_visual_map"), True
    stage.optim.muon_lr = 0.0
    stage.listen.update({"sounds": 0.0, "map": 0.0, "contrast": 0.0})
    config.model.audio_visual_map, config.model.decoder_trains_features = False, True
    stage.prompt.source = "none"
    return config


def test_plans_of_the_real_configs():
    config = s4.get_config("aavs")
    with pytest.raises(UserError, match=r"config\.init_from"):
        plan_phases(config, "avs")
    config.init_from = "somewhere"
    first, second = plan_phases(config, "avs")
    assert (first.start, first.end, second.end) == (0, 25_890, 51_780)
    assert (first.optim.lr, second.optim.lr) == (1e-3, 1e-4)
    config = avss.get_config("aavs")
    config.init_from = "somewhere"
    assert plan_phases(config, "avss")[0].end == config.avss.steps // 3
    config.avs.phases = "both"
    with pytest.raises(UserError, match="'both': expected one of all, aavs"):
        plan_phases(config, "avs")


def test_what_of_bert_trains():
    config = avss.get_config()
    config.init_from = "somewhere"
    pattern = "network/vta/bert/layers/0/"
    for kind, trained in (("all", [1, 1]), ("adapters", [0, 1]), ("frozen", [0, 0])):
        config.avs.optim.bert = kind
        first, _ = plan_phases(config, "avs")
        names = [f"{pattern}ffn/input/kernel", f"{pattern}attention_adapter/up/kernel"]
        factors = [next(f for regex, f in first.optim.rates if re.search(regex, n)) for n in names]
        assert factors == trained
    for name in ("network/vta/align_1/kernel", "network/mask_decoder/post_mask_head/0/bias"):
        assert next(f for regex, f in first.optim.rates if re.search(regex, name)) == 1
    # Without texts there is no BERT that a regex could match.
    config.model.vta = "none"
    assert not any("bert" in regex for regex, _ in plan_phases(config, "avs")[0].optim.rates)
    config.avs.optim.bert = "half"
    with pytest.raises(UserError, match="expected one of all, adapters, frozen"):
        plan_phases(config, "avs")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return str(tmp_path_factory.mktemp("prepared"))


def make_stage(config, folder):
    return Stage(config, "avs", open_datasets(config, config.avs.train), folder)


@pytest.fixture(scope="module")
def start(prepared, tmp_path_factory):
    """A folder with the weights of an untrained stage, without adapters in its encoder."""
    folder = tmp_path_factory.mktemp("start")
    config = get_config(prepared)
    config.model.audio_visual_map, config.model.decoder_trains_features = False, True
    config.avs.prompt.source = "none"
    stage = make_stage(config, folder)
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save_best(0, stage.phases[0].states.new(jax.random.key(5)).params, 0.0)
    checkpoints.close()
    return folder


def test_each_phase_trains_its_part_and_resumes_exactly(prepared, start, tmp_path, monkeypatch):
    config = aavs_config(prepared, start)
    stage = make_stage(config, tmp_path / "whole")
    before, after = read_weights(start), {}
    original = Checkpoints.save

    def keep(self, state, data_state):
        after[int(state.step)] = jax.device_get(state.params)["network"]
        original(self, state, data_state)

    monkeypatch.setattr(Checkpoints, "save", keep)
    train_stage(stage, Goodput())
    block = after[2]["encoder"]["stages"][0]["blocks"][0]
    frozen = before["network/encoder/stages/0/blocks/0/mlp_in/kernel"]
    np.testing.assert_array_equal(block["mlp_in"]["kernel"], frozen)
    assert not np.any(block["mlp_adapter"]["up"]["kernel"])
    trained = after[2]["mask_decoder"]["query_feature"]
    assert np.any(trained != before["network/mask_decoder/query_feature"])
    block = after[4]["encoder"]["stages"][0]["blocks"][0]
    np.testing.assert_array_equal(block["mlp_in"]["kernel"], frozen)
    assert np.any(block["mlp_adapter"]["up"]["kernel"])

    def die(self, state, data_state):
        original(self, state, data_state)
        self.wait()
        raise KeyboardInterrupt

    # Killed at the end of the first phase: the second starts from the best of it all the same.
    monkeypatch.setattr(Checkpoints, "save", die)
    with pytest.raises(KeyboardInterrupt):
        train_stage(make_stage(config, tmp_path / "killed"), Goodput())
    monkeypatch.setattr(Checkpoints, "save", keep)
    uninterrupted = after[4]
    train_stage(make_stage(config, tmp_path / "killed"), Goodput())
    jax.tree.map(np.testing.assert_array_equal, uninterrupted, after[4])


def test_kept_features_change_nothing(prepared, start, tmp_path, monkeypatch, caplog):
    config = aavs_config(prepared, start)
    config.avs.val, config.avs.eval_every = {}, 1
    config.data.augment.update(dict.fromkeys(("flip", "brightness", "contrast", "saturation"), 0.0))
    config.data.augment.scale = (1.0, 1.0)
    original, saved = Checkpoints.save, {}

    def keep(self, state, data_state):
        # But for the time that it took.
        told = data_state | {"loop": data_state["loop"] | {"seconds": {}}}
        saved[int(state.step)] = jax.device_get(state.params), told
        original(self, state, data_state)
        if int(state.step) == killed_at:
            self.wait()
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", keep)
    killed_at = None
    train_stage(make_stage(config, tmp_path / "plain"), Goodput())
    plain = saved.copy()
    saved.clear()
    config.data.kept_features, killed_at = "float32", 1
    frames = []
    put = Stage.put
    monkeypatch.setattr(Stage, "put", lambda self, b: frames.append(b.frames.any()) or put(self, b))
    # Killed in the middle of the first phase.
    with pytest.raises(KeyboardInterrupt):
        train_stage(make_stage(config, tmp_path / "kept"), Goodput())
    killed_at = None
    stage = make_stage(config, tmp_path / "kept")
    with caplog.at_level("INFO"):
        train_stage(stage, Goodput())
    assert frames == [False, False, True, True]
    assert ": 0 to compute" in caplog.text
    assert "avs phase2 trains the encoder: reads no kept features" in caplog.text
    assert sorted(saved) == sorted(plain) == [1, 2, 3, 4]
    for step, (params, data_state) in saved.items():
        assert data_state == plain[step][1]
        ours, theirs = (
            split_trained(tree, stage.phases[1].trained) for tree in (params, plain[step][0])
        )
        jax.tree.map(np.testing.assert_array_equal, ours[1], theirs[1])
        differences = [np.abs(ours[0][name] - theirs[0][name]).ravel() for name in ours[0]]
        differences = np.concatenate(differences)
        # To rounding, of the features and so of gradients, but Adam divides these by their own
        # size: where they are next to nothing, it shows. An update is up to 1e-3, and with the
        # features of another frame as different.
        assert np.mean(differences < 1e-6) > 0.95
        assert differences.max() < 1e-4
