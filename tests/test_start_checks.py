"""What a run refuses before its first step, a dry run refuses in the same words."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from configs import avss
from ssp_jax import start_checks
from ssp_jax.dry_run import dry_run
from ssp_jax.errors import UserError
from ssp_jax.overrides import override
from ssp_jax.run import open_stages, run
from ssp_jax.run_folder import check_config
from ssp_jax.train_state import named_leaves
from ssp_jax.weights.folder import save_weights
from tests.tiny_run import get_config


def refusals(config, workdir):
    """What the run says, and what the dry run."""
    with pytest.raises(UserError) as by_run:
        run(config, workdir)
    with pytest.raises(UserError) as by_dry_run:
        list(dry_run(config, workdir))
    return str(by_run.value), str(by_dry_run.value)


def changed(changes, folder, kind="ssp"):
    config = get_config(str(folder / "prepared"), kind)
    override(config, [f"--config.{change}" for change in changes])
    return config


_S4 = ("data_dir=HERE", "objects.train=('s4:train',)", "objects.val={}", "texts.tokeniser=x")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["avs.batch_size=0"], "config.avs.batch_size=0: expected 1"),
        (["avs.accumulate=3"], "config.avs.accumulate=3: 8 frames (config.avs.batch_size) cannot"),
        (["avs.accumulate=2"], "config.avs.listen.contrast=0.2 compares all frames"),
        (["mesh.data=100"], "config.mesh: data=100"),
        (["texts.vary=x"], "config.texts.vary='x': expected one of clean"),
        (["texts.tokeniser=HERE/none.txt"], "none.txt"),
        (["texts.file=HERE/none.json", "texts.tokeniser=HERE/vocab.txt"], "none.json: cannot be"),
        (["flow.estimator=perceiver"], "--config.flow.weights=DIR"),
        (["flow.estimator=perceiver", "flow.weights=HERE"], "no weight folder"),
        (["flow.size=4"], "config.flow.size=4: expected 16"),
        (["prepared_dir=HERE/vocab.txt/x"], "vocab.txt is no folder"),
        (["workdir"], "run: cannot be written"),
        (["stages=objects", *_S4], "config.stages: stage objects learns from maps"),
    ],
)
def test_before_any_data_are_prepared(changes, message, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    workdir = tmp_path / "run"
    if changes == ["workdir"]:
        workdir, changes = tmp_path / "vocab.txt/run", []
    changes = [change.replace("HERE", str(tmp_path)) for change in changes]
    config = changed(["stages=avs", *changes], tmp_path)
    said, dry = refusals(config, workdir)
    assert said == dry
    assert message in said
    assert [path.name for path in tmp_path.iterdir()] == ["vocab.txt"]


def test_devices_that_cannot_share_a_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(start_checks, "make_mesh", lambda **_: SimpleNamespace(size=3))
    said, dry = refusals(changed([], tmp_path), tmp_path / "run")
    assert said == dry
    assert "config.objects.batch_size=8: so many frames do not divide over 3 devices" in said
    assert "--config.mesh.data=2" in said
    assert list(tmp_path.iterdir()) == []


def test_64_bits_are_refused_at_once(tmp_path):
    with jax.enable_x64():
        said, dry = refusals(changed([], tmp_path), tmp_path / "run")
    assert said == dry
    assert said.startswith("JAX_ENABLE_X64=1: ")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With prepared data."""
    return tmp_path_factory.mktemp("checks")


@pytest.fixture(scope="module")
def stages(folder):
    """Of a run there, not trained; with weights beside it, whole and of another network."""
    stages = open_stages(changed([], folder, "baseline"), folder / "run")
    shapes = dict(named_leaves(stages["avs"].phases[0].states.shapes.params))
    arrays = {name: np.zeros(leaf.shape, np.float32) for name, leaf in shapes.items()}
    save_weights(folder / "whole", arrays, {})
    arrays["network/mask_decoder/class_head/bias"] = np.zeros(7, np.float32)
    save_weights(folder / "other", arrays, {})
    return stages


@pytest.mark.parametrize(
    "change", ["init_from=HERE/none", "avs.test={'s4':'builtin_tiny:tst'}", "stages=avss"]
)
def test_before_the_first_step(change, folder):
    config = changed(["stages=avs", change.replace("HERE", str(folder))], folder, "baseline")
    said, dry = refusals(config, folder / "run")
    assert said == dry
    place = {"i": f"config.init_from: {folder}/none", "a": "no clips of a split 'tst'", "s": "avs"}
    assert place[change[0]] in said
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["avs.init_from=HERE/whole,HERE/other"], ""),
        (["avs.init_from=HERE/other"], "/class_head/bias: (7,) there, (3,) here"),
        # Of the second stage before the first is trained.
        (["avss.init_from=HERE/none"], "config.avss.init_from: HERE/none: no weights to start"),
        (["avss.init_new=()"], "/class_head/bias: (3,) there, (14,) here"),
        (["stages=avss"], "HERE/run/avs: no finished stage avs, whose masks are needed"),
    ],
)
def test_what_stages_start_from(changes, message, folder, stages, monkeypatch):
    monkeypatch.setattr("ssp_jax.init_from.load_weights", lambda _: pytest.fail("reads arrays"))
    changes = [change.replace("HERE", str(folder)) for change in changes]
    config = changed(changes, folder, "baseline")
    if not message:
        start_checks.check_beginnings(config, stages)
        return
    with pytest.raises(UserError) as error:
        start_checks.check_beginnings(config, stages)
    assert message.replace("HERE", str(folder)) in str(error.value)


def test_what_a_stage_began_with_may_be_gone(folder, stages, tmp_path):
    config = changed(["stages=avs", "init_from=gone"], folder, "baseline")
    with pytest.raises(UserError, match=r"config\.init_from: gone"):
        start_checks.check_beginnings(config, stages)
    begun = copy.copy(stages["avs"])
    begun.folder = tmp_path / "avs"
    (begun.folder / "checkpoints/last/2").mkdir(parents=True)
    start_checks.check_beginnings(config, {"avs": begun})


def test_a_run_that_is_there_is_looked_at_first(tmp_path):
    config = changed([], tmp_path)
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    (run_folder / "config.json").write_text(json.dumps({"seed": 1}))
    said, dry = refusals(config, run_folder)
    assert said == dry
    assert "holds a run of another config" in said
    assert not Path(config.prepared_dir).exists()


def test_all_configs_pass_what_needs_no_files(monkeypatch):
    monkeypatch.setattr(start_checks, "check_inputs", lambda *_, **__: None)
    config = avss.get_config("small")
    check_config(config)
    start_checks.check_before_data(config, ["avs", "avss"], ["avss"])
