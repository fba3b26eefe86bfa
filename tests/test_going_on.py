"""What may differ where a run goes on, and what may not."""

import dataclasses
import json
import os
import shutil
from types import SimpleNamespace

import jax
import pytest

from configs import demo
from ssp_jax.data.datasets import DataSets, open_datasets
from ssp_jax.errors import UserError
from ssp_jax.json_files import read_sealed, write_sealed
from ssp_jax.overrides import override
from ssp_jax.run_folder import check_run, check_workdir, write_results
from ssp_jax.run_inputs import INPUTS, check_inputs_kept, keep_inputs, run_inputs
from tests.tiny_run import get_config

STEADY = ("--config.avs.optim.schedule=constant", "--config.avs.optim.warmup_steps=10")
AAVS = ("--config.avs.phases=aavs", "--config.init_from=weights", "--config.avs.phase1.share=0.5")


def config_of(*changes):
    config = demo.get_config()
    override(config, changes)
    return config


def begun(workdir, stage="avs"):
    (workdir / stage / "checkpoints" / "last" / "100").mkdir(parents=True)


@pytest.mark.parametrize(
    "change",
    [
        *("prepared_dir=elsewhere", "data_dir=elsewhere", "log_every=7", "save_every_minutes=1"),
        *("trackers=", "report=False", "save_masks=True", "negative_sounds=", "stages=avs"),
        *("max_skipped=3", "data.max_bad_clips=1", "data.num_workers=2", "data.cache_mb=1"),
        *(
            "profile.start=3",
            "profile.steps=2",
            "mesh.fsdp=2",
            "avs.accumulate=2",
            "model.remat=True",
            "allow_missing=True",
        ),
        *("texts.wordings.scene=What?", "avs.test={'s4':'builtin:test_v2'}"),
    ],
)
def test_what_decides_nothing_may_differ(change, tmp_path):
    check_workdir(config_of(), tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    assert check_run(config_of(f"--config.{change}"), tmp_path) == set()
    check_workdir(config_of(f"--config.{change}"), tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        *(
            "seed=1",
            "dtype=bfloat16",
            "matmul_precision=highest",
            "protocol=combo",
            "model.hidden=32",
            "data.frame_size=64",
        ),
        *("avs.val={'s4':'builtin:val'}", "avs.train=('builtin:train',)", "avs.batch_size=8"),
        *("avs.eval_every=7", "avs.eval_first=True", "texts.vary=empty", "flow.size=64"),
        *("init_from=other", "avs.phase1.share=0.4", "data.kept_features=float16"),
    ],
)
def test_what_decides_may_not_differ(change, tmp_path):
    check_workdir(config_of(), tmp_path)
    with pytest.raises(UserError, match="holds a run of another config") as error:
        check_run(config_of(f"--config.{change}"), tmp_path)
    assert f"({change.split('=')[0]}" in str(error.value)


def test_paths_may_be_spelt_in_another_way(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("weights", "other", "deep"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("weights")
    check_workdir(
        config_of("--config.init_from=weights,other", "--config.flow.weights=weights"), tmp_path
    )
    same = f"--config.init_from={tmp_path}/deep/../link, other"
    check_run(config_of(same, "--config.flow.weights=./link"), tmp_path)
    with pytest.raises(UserError, match="init_from"):
        check_run(
            config_of("--config.init_from=other,weights", "--config.flow.weights=link"), tmp_path
        )
    # Known by what it holds, a file may have any name; that is looked at once it is read.
    known = {"data": {}, "files": {"flow.weights": "digits"}, "random": {}}
    write_sealed(tmp_path / INPUTS, known)
    check_run(config_of("--config.init_from=weights,other", "--config.flow.weights=x"), tmp_path)
    with pytest.raises(UserError, match=r"flow\.weights"):
        check_run(config_of("--config.init_from=weights,other"), tmp_path)


@pytest.mark.parametrize(
    ("changes", "steps", "more"),
    [(STEADY, 1500, ()), ((*STEADY, *AAVS), 2000, ("--config.avs.phase1.share=0.25",))],
)
def test_a_steady_training_may_become_longer(changes, steps, more, tmp_path):
    check_workdir(config_of(*changes), tmp_path)
    begun(tmp_path)
    write_results(tmp_path / "results.json", {"s4": {"miou": 0.5}, "avss": {"miou": 0.25}})
    longer = config_of(*changes, f"--config.avs.steps={steps}", *more)
    before = (tmp_path / "config.json").read_bytes()
    assert check_run(longer, tmp_path) == {"avs.steps", *(["avs.phase1.share"] if more else [])}
    assert (tmp_path / "config.json").read_bytes() == before  # a dry run asks the same
    check_workdir(longer, tmp_path)
    assert read_sealed(tmp_path / "config.json", "") == json.loads(longer.to_json())
    # Of what the stage was before; the other stage's stay.
    assert json.loads((tmp_path / "results.json").read_text()) == {"avss": {"miou": 0.25}}
    check_workdir(longer, tmp_path)
    with pytest.raises(UserError, match="cannot go on with fewer"):
        check_run(config_of(*changes), tmp_path)


@pytest.mark.parametrize(
    ("changes", "more", "message"),
    [
        ((), "steps=1500", "are another training.*--workdir=NEW --config.avs.init_from="),
        ((), "steps=500", "begun with 1000, and cannot go on with fewer"),
        (("--config.avs.optim.schedule=constant", "--config.avs.optim.warmup_steps=1000"),
         "steps=1500", "rises until then"),
        ((*STEADY, *AAVS), "steps=2000", r"first phase would end at step 1000, not 500; "
         r"--config.avs.phase1.share=0.25 leaves"),
    ],
)  # fmt: skip
def test_another_training_is_refused(changes, more, message, tmp_path):
    check_workdir(config_of(*changes), tmp_path)
    with pytest.raises(UserError, match=message):
        check_run(config_of(*changes, f"--config.avs.{more}"), tmp_path)


def test_a_stage_on_which_another_was_built_stays(tmp_path):
    check_workdir(config_of(*STEADY), tmp_path)
    longer = config_of(*STEADY, "--config.avs.steps=1500")
    check_run(longer, tmp_path)
    begun(tmp_path, "avss")
    with pytest.raises(UserError, match=f"stage avss was trained from .*Delete {tmp_path}/avss"):
        check_run(longer, tmp_path)
    # Not a stage that is not trained now.
    with pytest.raises(UserError, match=r"another config \(avs.steps: 1000 there, 1500 now"):
        check_run(config_of(*STEADY, "--config.avs.steps=1500", "--config.stages=avss"), tmp_path)


def inputs_of(config, data):
    # As much of a stage as is asked for.
    stage = SimpleNamespace(reads_texts=False, flow_used=False, data=data)
    return run_inputs(config, {"avs": stage})


def test_data_are_known_by_what_they_hold(tmp_path):
    config, workdir = get_config(str(tmp_path / "prepared")), tmp_path / "run"
    workdir.mkdir()
    data = open_datasets(config, config.avs.train)
    inputs = inputs_of(config, data)
    check_inputs_kept(config, workdir, inputs)  # of older code: nothing is known
    keep_inputs(workdir, inputs)
    before = (workdir / INPUTS).read_bytes()
    fingerprint = data.source(config.avs.train).fingerprint()
    shutil.copytree(tmp_path / "prepared", tmp_path / "copy", copy_function=shutil.copyfile)
    config.prepared_dir = str(tmp_path / "copy")
    for path in (tmp_path / "copy").rglob("*.array_record*"):
        os.utime(path, ns=(1, 1))
    copied = open_datasets(config, config.avs.train)
    # So flows and masks beside them are known, too.
    assert copied.source(config.avs.train).fingerprint() == fingerprint
    check_inputs_kept(config, workdir, inputs_of(config, copied))
    keep_inputs(workdir, inputs_of(config, copied))
    assert (workdir / INPUTS).read_bytes() == before

    facts = copied.facts["builtin_tiny"]
    for other, name in (
        (dataclasses.replace(facts, frame_size=32), "frame_size"),
        (dataclasses.replace(facts, clips={**facts.clips, "val_v1s": "others"}), "clips"),
        (dataclasses.replace(facts, identity={**facts.identity, "seed": 1}), "seed"),
    ):
        others = dataclasses.replace(copied, facts={"builtin_tiny": other})
        match = rf"prepared_dir=.* began with other data of builtin_tiny \(another {name}\)"
        with pytest.raises(UserError, match=match):
            check_inputs_kept(config, workdir, inputs_of(config, others))
    unknown = dataclasses.replace(facts, clips={}, files="")  # not prepared yet
    others = dataclasses.replace(copied, facts={"builtin_tiny": unknown})
    check_inputs_kept(config, workdir, inputs_of(config, others))


@pytest.mark.parametrize(
    ("part", "key", "message"),
    [
        ("files", "texts.file", r"config.texts.file=b.json: .* began with another, by its SHA"),
        ("random", "jax_default_prng_impl", "JAX_DEFAULT_PRNG_IMPL=now: .* began with then.*Set"),
        (
            "random",
            "jax_threefry_partitionable",
            "JAX_THREEFRY_PARTITIONABLE=now: .* began wi",
        ),
    ],
)
def test_other_files_and_random_numbers_are_refused(part, key, message, tmp_path):
    config = config_of("--config.texts.file=b.json")
    inputs = {"data": {}, "files": {}, "random": {}}
    inputs[part] = {key: "then"}
    keep_inputs(tmp_path, inputs)
    check_inputs_kept(config, tmp_path, inputs)
    with pytest.raises(UserError, match=message):
        check_inputs_kept(config, tmp_path, {**inputs, part: {key: "now"}})


def test_how_jax_draws_is_kept():
    with jax.default_prng_impl("rbg"):
        drawn = inputs_of(config_of(), DataSets({}, (), ()))["random"]
    assert drawn == {"jax_default_prng_impl": "rbg", "jax_threefry_partitionable": True}
