"""The whole road at a tiny size: prepare, train, resume, evaluate, write."""

import base64
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile
from PIL import Image

from benchmarks import kills
from ssp_jax.checkpoints import read_newest
from ssp_jax.data.datasets import open_datasets
from ssp_jax.data.transforms import decode_labels
from ssp_jax.dry_run import batch_shapes, dry_run
from ssp_jax.errors import UserError
from ssp_jax.evaluators.report import format_table
from ssp_jax.init_from import initial_params, read_weights
from ssp_jax.overrides import override
from ssp_jax.report import __main__ as report
from ssp_jax.report.record import read_records
from ssp_jax.run import open_stages, run
from ssp_jax.run_folder import check_workdir
from ssp_jax.score import __main__ as score
from ssp_jax.stage import Stage
from ssp_jax.stage_training import phase_step, training_batches
from ssp_jax.train_state import split_trained
from tests.tiny_run import get_config

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return str(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def whole_run(prepared, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return workdir, run(get_config(prepared), workdir)


def test_writes_results_pictures_and_metrics(whole_run):
    workdir, results = whole_run
    assert json.loads((workdir / "results.json").read_text()) == results
    assert set(results) == {"s4", "ms3", "avss"}
    for result in results.values():
        assert 0 <= result["miou"] <= 1
        assert set(result) >= {"fscore", "foreign_sounds", "nothing", "moving", "visible"}
        for sound in ("silence", "noise", "foreign_sounds"):
            assert set(result[sound]) == {"miou", "fscore", "activated", "g_miou"}
        # Masks of every visible object are closer to the truth than none at all.
        assert result["visible"]["miou"] > result["nothing"]["miou"]
    assert all((workdir / p).exists() for p in ("avs/s4.png", "avs/ms3.png", "avss/avss.png"))
    lines = [json.loads(x) for x in (workdir / "avs/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert list((workdir / "avs/events").iterdir())
    table = format_table(results)
    assert f"{100 * results['s4']['miou']:.1f} / {100 * results['s4']['fscore']:.1f}" in table


def test_the_report_tells_what_the_evaluation_saw(whole_run):
    workdir, results = whole_run
    page, records = (workdir / "report.html").read_text(), read_records(workdir)
    assert set(records) == set(results)
    for name, record in records.items():
        assert f"{100 * results[name]['miou']:.1f} / {100 * results[name]['fscore']:.1f}" in page
        assert sum(clip["count"] for clip in record["clips"]) == record["num_frames"]
        pixels = np.array(record["confusion"]["pixels"])
        assert pixels.sum() == record["num_frames"] * 224**2
        activated = pixels[:, 1:].sum() / pixels.sum()
        assert activated == pytest.approx(results[name]["activated"])
        scores = {clip["clip"]: clip["iou"] for clip in record["clips"] if clip["sounding"]}
        shown = [(view["rank"], scores[view["clip"]]) for view in record["views"]]
        assert len(shown) == min(9, len(scores)) == len({v["clip"] for v in record["views"]})
        best = [iou for rank, iou in shown if rank == "best"]
        assert best == sorted(scores.values(), reverse=True)[:3]
        assert all(iou <= best[-1] for rank, iou in shown if rank != "best")
        titles = [strip["title"] for strip in record["views"][0]["strips"]]
        assert titles == ["frame", "mask prompt", "truth", "prediction", "sound"]
    classes = records["avss"]["classes"]
    total = sum(row["iou"] for row in classes) / len(records["avss"]["confusion"]["names"])
    assert total == pytest.approx(results["avss"]["miou"])
    _, sound = records["s4"]["views"][0]["sound"]
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(sound)))
    assert len(samples) / rate == pytest.approx(5, abs=0.2)


def test_two_runs_side_by_side(whole_run, tmp_path):
    workdir, other = whole_run[0], tmp_path / "other"
    shutil.copytree(workdir, other, ignore=shutil.ignore_patterns("compiled", "masks"))
    path = other / "avs/report/s4.json"
    record = json.loads(path.read_text())
    better, worse = record["clips"][0], record["clips"][1]
    better["iou"], worse["iou"] = better["iou"] + 0.5, worse["iou"] - 0.5
    path.write_text(json.dumps(record))
    page = report.run([str(workdir), str(other), "--clips=1"]).read_text()
    ahead, behind = page.split("s4: clips where")[1:]
    assert f"<h3>{better['uid']}</h3>" in ahead
    assert f"<h3>{worse['uid']}</h3>" in behind
    for part in (ahead, behind):
        assert part.count("<figcaption>prediction: ") == 2
        predicted = re.findall('<figcaption>prediction: .*?src="(.*?)"', part)
        assert predicted[0] == predicted[1]  # both have the same parameters


def test_a_finished_run_is_not_done_again(whole_run, prepared, monkeypatch, caplog):
    workdir, results = whole_run
    before = (workdir / "avs/metrics.jsonl").read_bytes()

    def fail(*_):
        raise ValueError("no pictures today")

    monkeypatch.setattr("ssp_jax.scores.add_views", fail)
    assert run(get_config(prepared), workdir) == results
    assert (workdir / "avs/metrics.jsonl").read_bytes() == before
    # A report that fails takes nothing with it.
    assert "no pictures today" in caplog.text


def test_killed_runs_end_as_one_left_alone(whole_run, prepared, tmp_path, monkeypatch):
    # The short form of `python -m benchmarks.kills`.
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    undisturbed = kills.Run(whole_run[0].parent, workdir=whole_run[0], prepared=Path(prepared))
    run = kills.Run(
        tmp_path,
        prepared=Path(prepared),
        config="tests/tiny_run.py",
        arguments=["--config.stages=avs"],
    )
    by_name = {moment.name: moment for moment in kills.moments(["avs"])}
    for seed, name, number in (
        (2, "avs: saving the state", signal.SIGKILL),
        (3, "avs: in a step", signal.SIGTERM),
        (4, "avs: evaluating", signal.SIGKILL),
    ):
        # Sets of strings have another order in each start, as by chance in a user's.
        monkeypatch.setenv("PYTHONHASHSEED", str(seed))
        assert kills.kill_at(run, [by_name[name]], random.Random(0), number) == 0, name
    run.finish()
    assert kills.differences(undisturbed, run, ["avs"], results=("s4", "ms3")) == []
    # Every start had the same step, and compiled it no second time.
    assert len(list(tmp_path.glob("compiled/jit_train_step-*-cache"))) == 1


@pytest.mark.skipif(
    os.environ.get("SSP_JAX_SLOW") != "1", reason="a minute and a half: SSP_JAX_SLOW=1"
)
def test_a_finished_stage_goes_on_for_longer_with_its_data_elsewhere(prepared, tmp_path):
    def steady(steps, place=prepared):
        config = get_config(str(place))
        config.stages, config.report, config.negative_sounds = "avs", False, ""
        config.avs.steps = steps
        config.avs.optim.schedule, config.avs.optim.warmup_steps = "constant", 1
        override(config, ["--config.avs.val={'s4':'builtin_tiny:val_v1s'}", "--config.avs.test={}"])
        return config

    whole, grown = tmp_path / "whole", tmp_path / "grown"
    run(steady(4), whole)
    run(steady(2), grown)
    (tmp_path / "link").symlink_to(prepared)
    config = steady(4, tmp_path / "link")
    config.log_every = 2
    run(config, grown)
    lines = [json.loads(x) for x in (grown / "avs/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 4]  # none done again
    for which in ("last", "best"):
        one, other = (read_newest(folder / "avs/checkpoints", which) for folder in (whole, grown))
        assert one.keys() == other.keys()
        for name, array in one.items():
            np.testing.assert_array_equal(array, other[name], err_msg=name)


def test_saved_masks_score_as_the_run_does(whole_run, prepared, tmp_path):
    workdir, results = whole_run
    config = get_config(prepared)
    config.save_masks, config.negative_sounds = True, ""
    run(config, workdir)
    data = open_datasets(config, config.avs.train)
    for stage, name, binary in (("avs", "ms3", True), ("avss", "avss", False)):
        truth = tmp_path / name
        source = data.source(config[stage].test[name])
        for clip in (source[index] for index in range(len(source))):
            (truth / clip.uid).mkdir(parents=True)
            for second, encoded in enumerate(clip.labels):
                labels = decode_labels(encoded, where=clip.uid)
                picture = Image.fromarray(255 * np.uint8(labels > 0) if binary else labels)
                picture.save(truth / clip.uid / f"{second + binary}.png")
        flags = [f"--pred={workdir / stage / 'masks' / name}", f"--truth={truth}"]
        if not binary:
            classes = {name: index + 1 for index, name in enumerate(data.class_names)}
            (truth / "label2idx.json").write_text(json.dumps(classes))
        scores = score.run([*flags, f"--benchmark={name}"])
        assert scores["miou"] == pytest.approx(results[name]["miou"], abs=1e-6)
        assert scores["activated"] == pytest.approx(results[name]["activated"], abs=1e-6)
        # Soft masks have 8 bits.
        assert scores["fscore"] == pytest.approx(
            results[name]["fscore"], abs=5e-3 if binary else 1e-6
        )


def test_stage_two_starts_from_stage_one(whole_run, prepared):
    config = get_config(prepared)
    stage = Stage(config, "avss", open_datasets(config, config.avss.train), Path("unused"))
    states = stage.phases[0].states
    new = states.new(jax.random.key(0)).params
    folder, shardings = whole_run[0] / "avs", stage.param_shardings
    params, anew, unused = initial_params([folder], new, shardings, ("class_head",))
    # Another number of classes; every other parameter is taken.
    assert anew == [f"network/mask_decoder/class_head/{leaf}" for leaf in ("bias", "kernel")]
    assert unused == anew
    # What starts anew can be drawn without all else, and is the same.
    drawn, like = states.drawn(jax.random.key(0), anew), split_trained(new, set(anew))[0]
    jax.tree.map(np.testing.assert_array_equal, drawn, like)
    assert all(leaf.any() for name, leaf in drawn.items() if "kernel" in name)
    taken = params["network"]["encoder"]["stages"][0]["blocks"][0]["mlp_in"]["kernel"]
    assert (taken != new["network"]["encoder"]["stages"][0]["blocks"][0]["mlp_in"]["kernel"]).any()
    with pytest.raises(UserError, match=r"class_head/bias: \(3,\) there"):
        initial_params([folder], new, shardings, ())
    with pytest.raises(UserError, match="a run with several stages; name one of"):
        initial_params([whole_run[0]], new, shardings, ())
    with pytest.raises(UserError, match="no weights to start from"):
        initial_params([folder / "nowhere"], new, shardings, ())


def test_all_of_ssp_starts_from_what_is_visible(prepared, tmp_path):
    config = get_config(prepared, "ssp")
    results = run(config, tmp_path)
    assert set(results) == {"s4", "ms3", "avss"}
    stage = Stage(config, "avss", open_datasets(config, config.avss.train), Path("unused"))
    new = stage.phases[0].states.new(jax.random.key(0)).params
    folders = [tmp_path / name for name in ("objects", "avs")]
    # Where it sounds alone needs no classes, so what words say of them is new.
    alone = ("network/text_classes/",)
    params, anew, _ = initial_params(folders, new, stage.param_shardings, alone)
    assert sorted(anew) == [f"network/text_classes/words/{name}" for name in ("bias", "kernel")]
    # The class head is that of the objects, all else that of stage 1.
    for folder, part in zip(folders, ("class_head", "mask_head"), strict=True):
        theirs = read_weights(folder)
        taken = split_trained(params, {name for name in theirs if f"/{part}/" in name})[0]
        assert taken
        for name, leaf in taken.items():
            np.testing.assert_array_equal(leaf, theirs[name])


def test_the_step_compiles_once(whole_run, prepared):
    config = get_config(prepared)
    stage = Stage(config, "avs", open_datasets(config, config.avs.train), Path("unused"))
    (phase,) = stage.phases
    step = phase_step(stage, phase)
    state, key = phase.states.new(jax.random.key(0)), jax.random.key(0)
    with training_batches(stage) as batches:
        for number in range(3):
            state, _ = step(state, stage.put(next(batches)), key, number)
    assert step._cache_size() == 1


def test_a_dry_run_tells_and_writes_nothing(whole_run, prepared, tmp_path, monkeypatch):
    def cheap_step(stage, phase):
        # Of the same inputs; the real ones take a minute to compile, once more for each.
        return jax.jit(lambda state, batch, key, number: (state.step + batch.labels.sum(), key))

    monkeypatch.setattr("ssp_jax.dry_run.phase_step", cheap_step)
    workdir, config = whole_run[0], get_config(prepared)
    config.stages = "avs"
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    there = "\n".join(dry_run(config, workdir))
    assert before == {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    assert "builtin_tiny: prepared in" in there
    assert "test s4, builtin_tiny:test_v1s: 3 clips, 15 frames, 15 annotated" in there
    assert "holds this run, which would go on" in there
    config.prepared_dir = str(tmp_path / "prepared")
    absent = "\n".join(dry_run(config, tmp_path / "run"))
    assert "not prepared yet: the run would generate it into" in absent
    assert "test s4, builtin_tiny:test_v1s: not prepared" in absent
    assert list(tmp_path.iterdir()) == []
    # The same network and step, data or not, and as large as the run's own parameters.
    steps = [line for line in there.splitlines() if "GB a device" in line]
    assert steps == [line for line in absent.splitlines() if "GB a device" in line]
    total = sum(array.size for array in read_weights(workdir / "avs").values())
    assert f"{total / 1e6:.2f} M parameters trained, 0.00 M frozen" in steps[0]
    config.prepared_dir, config.seed = prepared, 7
    with pytest.raises(UserError, match="seed: 0 there, 7 now"):
        next(dry_run(config, workdir))


def test_a_dry_run_compiles_the_step_of_the_real_batches(prepared, tmp_path):
    config = get_config(prepared, "ssp")
    config.stages = "avs"
    stage = open_stages(config, tmp_path)["avs"]
    with training_batches(stage) as batches:
        batch = next(batches)

    def described(tree):
        return jax.tree.map(lambda x: (x.shape, str(x.dtype)), tree)

    assert described(batch_shapes(stage, stage.phases[0])) == described(batch)


def test_workdir_of_another_config_is_refused(tmp_path):
    config = get_config()
    check_workdir(config, tmp_path)
    check_workdir(config, tmp_path)
    before, config.avs.optim.lr = config.avs.optim.lr, 0.5
    with pytest.raises(UserError, match=rf"avs\.optim\.lr: {before} there, 0\.5 now"):
        check_workdir(config, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/demo.py", "--config.avs.optim.rate=1"], "the nearest: avs.optim.rates"),
        (["--config=configs/demo.py", "--workdri=x"], "'workdri'. Did you mean: workdir"),
        (["--config.seed=1"], "--config is missing"),
        (["--config=configs/s4.py:huge"], "expected one of base, paper, aavs, small"),
        (["--config=configs/demo.py:small"], "expected one of baseline, ssp"),
        (["--config=configs/s4.py"], "configs/demo.py"),
        (["--config=configs/demo.py", "--config.protocol=mine"], "unknown protocol 'mine'"),
        (["--config=configs/demo.py", "--config.stages=avz"], "'avz'"),
        (["--config=configs/demo.py", "--config.model.size=huge"], "config.model.size='huge'"),
        (["--config=configs/demo.py", "--config.avs.optim.schedule=sine"], "'sine'"),
        # Before the data are looked at.
        (
            ["--config=configs/s4.py:small", "--config.data_dir=none", "--config.model.vta=joint"],
            "config.texts.tokeniser is empty",
        ),
    ],
)
def test_mistakes_give_one_line(arguments, message, tmp_path):
    command = [sys.executable, "-m", "ssp_jax.main", f"--workdir={tmp_path / 'run'}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    line = next(x for x in done.stderr.splitlines() if x.startswith("error:"))
    assert message in line
    assert not (tmp_path / "run").exists()
