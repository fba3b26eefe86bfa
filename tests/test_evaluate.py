"""Weights scored without training: by whatever folder they come, interrupted or not."""

import gc
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from ssp_jax import command_line, config_of_run, evaluate, kept_scores, scores
from ssp_jax.data.sources import ClipSource
from ssp_jax.dry_run import dry_run
from ssp_jax.errors import UserError
from ssp_jax.evaluation import open_evaluation
from ssp_jax.evaluators.segmentation import SegmentationEvaluator
from ssp_jax.hub.published import write_published
from ssp_jax.init_from import read_weights
from ssp_jax.mask_prompts import prompt_by
from ssp_jax.run import run as run_config
from ssp_jax.weights.folder import save_weights
from tests.commands import runner
from tests.tiny_run import get_config
from tests.untrained import untrained_run

ROOT = Path(__file__).parent.parent
slow = pytest.mark.skipif(
    os.environ.get("SSP_JAX_SLOW") != "1", reason="a minute on two cores: SSP_JAX_SLOW=1"
)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """(run's folder with random weights, its config)."""
    folder = tmp_path_factory.mktemp("evaluate")
    config = get_config(str(folder / "prepared"))
    config.negative_sounds = "silence"
    untrained_run(config, folder / "run")
    return folder / "run", config


@pytest.fixture(scope="module")
def whole(untrained, tmp_path_factory):
    """(folder of an undisturbed evaluation of both stages, its results)."""
    out = tmp_path_factory.mktemp("whole") / "out"
    evaluate.run([f"--weights={untrained[0]}", f"--workdir={out}", "--config.save_masks=True"])
    return out, _results(out)


@pytest.fixture(scope="module")
def imported(untrained, tmp_path_factory):
    """Folders as `ssp_jax.weights import` makes them: of both of AAVS's stages, and of VGGish."""
    folder = tmp_path_factory.mktemp("imported")
    places = {"stage1": folder / "stage1", "stage2": folder / "stage2", "vggish": folder / "vggish"}
    for number, name in enumerate(("avs", "avss"), start=1):
        arrays = read_weights(untrained[0] / name)
        heard = {key: value for key, value in arrays.items() if "/audio_encoder/" in key}
        rest = {key: value for key, value in arrays.items() if key not in heard}
        if number == 2:  # AAVS's stages share one VGGish; so do these, but for what it holds
            rest |= heard
        else:
            save_weights(places["vggish"], heard, {"source": "vggish", "stage": None})
        save_weights(places[f"stage{number}"], rest, {"source": "aavs", "stage": number})
    return places


@pytest.fixture
def command(monkeypatch, capsys):
    # A test's process has used its devices already, and its signals are pytest's.
    monkeypatch.setattr(evaluate, "start_processes", lambda *_: None)
    monkeypatch.setattr(command_line.preemption, "listen", lambda: None)
    return runner("ssp_jax.evaluate", evaluate.main, monkeypatch, capsys)


@pytest.fixture
def scored(monkeypatch):
    """List of (clip, second) of the frames that a network's scores were counted of."""
    frames, score = [], SegmentationEvaluator.score

    def counted(self, scores, placed, batch):
        if isinstance(placed.frames, jax.Array):  # no trivial prediction's
            frames.append(
                [*zip(batch.clip[batch.annotated], batch.second[batch.annotated], strict=True)]
            )
        return score(self, scores, placed, batch)

    monkeypatch.setattr(SegmentationEvaluator, "score", counted)
    return frames


def _results(folder):
    return json.loads((folder / "results.json").read_text())


def test_the_scores_are_those_that_a_run_gives_its_weights(untrained, whole, tmp_path):
    # As `run.run` scores, with stages that train.
    stages, params = untrained_run(untrained[1], tmp_path / "run")
    prompt_by(stages["avs"], params["avs"], stages["avss"], uses=("test",))
    config = untrained[1].copy_and_resolve_references()
    config.report = False
    results = {}
    for name, stage in stages.items():
        stage.config = config
        results |= dict(scores.evaluate(stage, params[name]))
    assert json.loads(json.dumps(results)) == whole[1]
    for file in ("avs/s4.png", "avs/ms3.png", "avss/avss.png"):
        assert (whole[0] / file).read_bytes() == (tmp_path / "run" / file).read_bytes()


def test_the_page_tells_whose_scores_these_are(untrained, whole):
    page = (whole[0] / "report.html").read_text()
    for name, result in whole[1].items():
        assert f"{name}: " in page
        assert f"{100 * result['miou']:.1f} / {100 * result['fscore']:.1f}" in page
    assert "Scored, not trained here" in page
    assert str(untrained[0] / "avss") in page
    assert "training clips" not in page


def test_nothing_is_scored_twice(untrained, whole, scored, command):
    _, said, _ = command(f"--weights={untrained[0]}", f"--workdir={whole[0]}")
    assert scored == []
    assert _results(whole[0]) == whole[1]
    assert f"results: {whole[0] / 'results.json'}" in said
    # What is asked for besides is scored; what is there is kept.
    more = (f"--weights={untrained[0]}", f"--workdir={whole[0]}", "--config.stages=avs")
    command(*more, "--config.negative_sounds=silence,noise")
    assert len(scored) == 4  # two batches a set, under noise alone
    results = _results(whole[0])
    assert set(results["s4"]) - set(whole[1]["s4"]) == {"noise"}
    assert results["s4"]["silence"] == whole[1]["s4"]["silence"]


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
def test_an_interrupted_evaluation_goes_on(
    killed, untrained, whole, scored, tmp_path, monkeypatch, request
):
    arguments = [f"--weights={untrained[0]}", f"--workdir={tmp_path / 'out'}"]
    arguments += ["--config.save_masks=True", "--config.stages=avss"]
    monkeypatch.setattr(kept_scores, "SAVE_EVERY", 0.0 if killed else 1e9)
    score, write = SegmentationEvaluator.score, kept_scores.KeptCounts.write
    pictures = []

    def until_here(self, *inputs):
        if len(scored) == 3:
            if killed:  # nothing is written on the way out
                monkeypatch.setattr(kept_scores.KeptCounts, "write", lambda *_: None)
            raise KeyboardInterrupt
        return score(self, *inputs)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentationEvaluator, "score", until_here)
        with pytest.raises(KeyboardInterrupt):
            evaluate.run(arguments)
    monkeypatch.setattr(kept_scores.KeptCounts, "write", write)
    assert not (tmp_path / "out/results.json").exists()
    # And in the masks.
    encode = scores.write_masks

    def stop_writing(*inputs):
        pictures.append(inputs)
        if len(pictures) == 3:
            raise KeyboardInterrupt
        encode(*inputs)

    with monkeypatch.context() as patch:
        patch.setattr(scores, "write_masks", stop_writing)
        with pytest.raises(KeyboardInterrupt):
            evaluate.run(arguments)
    evaluate.run(arguments)
    assert _results(tmp_path / "out") == {"avss": whole[1]["avss"]}
    # No frame was counted twice, but under the other sound.
    frames = [frame for batch in scored for frame in batch]
    assert len(frames) == 2 * len(set(frames)) == 120
    own, there = (f / "avss/masks/avss" for f in (tmp_path / "out", whole[0]))
    files = sorted(path.relative_to(own) for path in own.rglob("*.png"))
    assert len(files) == 60
    assert files == sorted(path.relative_to(there) for path in there.rglob("*.png"))
    for file in files:
        assert (own / file).read_bytes() == (there / file).read_bytes()
    records = [f / "avss/report/avss.json" for f in (tmp_path / "out", whole[0])]
    assert records[0].read_bytes() == records[1].read_bytes()


_STOPS_ITSELF = """
import os, signal
import jax
from ssp_jax import evaluate
from ssp_jax.evaluators.segmentation import SegmentationEvaluator
score, calls = SegmentationEvaluator.score, []
def stop(self, scores, placed, batch):
    if isinstance(placed.frames, jax.Array):
        calls.append(0)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
    return score(self, scores, placed, batch)
SegmentationEvaluator.score = stop
evaluate.main()
"""


def test_sigterm_keeps_what_was_counted(untrained, whole, scored, tmp_path):
    arguments = [f"--weights={untrained[0]}", f"--workdir={tmp_path}", "--config.stages=avs"]
    done = subprocess.run(
        [sys.executable, "-c", _STOPS_ITSELF, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 75, done.stderr
    assert "Traceback" not in done.stderr
    evaluate.run(arguments)
    assert _results(tmp_path) == {name: whole[1][name] for name in ("s4", "ms3")}
    assert len(scored) == 8 - 1  # of four sets and sounds, all but the first batch


def test_imported_weights_of_both_stages(untrained, whole, imported, tmp_path, monkeypatch):
    def optimiser(*_):
        raise AssertionError("an optimiser, where nothing is trained")

    monkeypatch.setattr("ssp_jax.phases.make_optimizer", optimiser)

    def scores(*folders, out):
        weights = ",".join(str(imported[folder]) for folder in folders)
        evaluate.run(
            [
                f"--config={config_of_run.__file__}:{untrained[0]}",
                # AAVS's, which a training would want config.init_from for.
                *(f"--config.{stage}.phases=aavs" for stage in ("avs", "avss")),
                *("--config.negative_sounds=", "--config.report=False"),
                *(f"--weights={weights}", f"--workdir={tmp_path / out}"),
            ]
        )
        return _plain(_results(tmp_path / out))

    assert scores("stage2", "vggish", "stage1", out="both") == _plain(whole[1])
    assert set(scores("stage1", "vggish", out="one")) == {"s4", "ms3"}
    with pytest.raises(UserError, match=r"stage avss is prompted .*weights import --source=aavs"):
        scores("stage2", out="two")
    with pytest.raises(UserError, match=r"network/audio_encoder/.* missing"):
        scores("stage1", out="deaf")
    with pytest.raises(UserError, match="both hold stage avs"):
        scores("stage1", "stage1", out="twice")
    with pytest.raises(UserError, match="no weights of AAVS"):
        scores("vggish", out="none")
    assert {path.name for path in tmp_path.iterdir()} == {"both", "one"}


def _plain(results):
    return {name: (result["miou"], result["fscore"]) for name, result in results.items()}


@slow
def test_a_published_network_needs_no_config(untrained, whole, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    write_published(untrained[0], tmp_path / "network", "a network", None)
    prepared = f"--config.prepared_dir={untrained[1].prepared_dir}"
    plain = (prepared, "--config.negative_sounds=", "--config.report=False")
    status, _, log = command("--weights=network", *plain, "--config.stages=avss")
    assert status == 0
    assert "config: that of network/config.json" in log
    results = _plain(_results(tmp_path / "runs/evaluate-network"))
    assert results == {"avss": _plain(whole[1])["avss"]}
    # A stage of it, by other protocols, on validation clips as well.
    flags = ("--protocol=official,combo", "--splits=val,test", "--workdir=avs")
    status, said, _ = command("--weights=network/avs", *plain, *flags)
    assert status == 0
    assert said.index("protocol official") < said.index("protocol combo")
    official, combo = (_plain(_results(tmp_path / "avs" / name)) for name in ("official", "combo"))
    assert official.keys() == combo.keys() == {"s4", "ms3", "val_s4", "val_ms3"}
    assert official["s4"] == _plain(whole[1])["s4"]
    assert official["s4"] != official["val_s4"]
    assert official["s4"][1] != combo["s4"][1]


def test_a_folder_of_other_scores_is_refused(
    untrained, whole, imported, tmp_path, command, monkeypatch
):
    out = tmp_path / "out"
    shutil.copytree(whole[0], out)
    before = {path: path.read_bytes() for path in out.rglob("*.json")}
    run, config = untrained[0], f"--config={config_of_run.__file__}:{untrained[0]}"
    arrays = read_weights(run / "avs")
    name = max(arrays, key=lambda name: arrays[name].size)
    arrays[name].reshape(-1)[0] += np.float32(1e-6)
    save_weights(tmp_path / "other", arrays, {"stage": 1})
    for flags, message in (
        ((f"--weights={run}", "--protocol=combo"), "protocol: 'official' there, 'combo' now"),
        (
            (f"--weights={tmp_path / 'other'}", config),
            f"stage avs: {run / 'avs'} there, {tmp_path}",
        ),
    ):
        for dry in ((), ("--dry_run",)):
            status, _, log = command(*flags, *dry, f"--workdir={out}")
            assert status == 1
            assert message in log.splitlines()[-1]
            assert log.splitlines()[-1].startswith("error: ")
    assert before == {path: path.read_bytes() for path in out.rglob("*.json")}
    _, _, log = command(f"--weights={run}", f"--workdir={run}")
    assert f"--workdir={run}: holds a run" in log
    config = get_config(untrained[1].prepared_dir)
    with pytest.raises(UserError, match="holds scores of python -m"):
        run_config(config, out)
    with pytest.raises(UserError, match="holds scores of python -m"):
        list(dry_run(config, out))
    monkeypatch.setattr(ClipSource, "fingerprint", lambda self: "of other clips")
    _, _, log = command(f"--weights={run}", f"--workdir={out}")
    assert "holds the scores of other data (builtin_tiny:test was prepared anew" in log


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--weights={stage1},{vggish}"], "--config=FILE.py has to say what model it is"),
        (["--weights={run}", "--splits=train"], "--splits=train: expected test, val"),
        (["--weights={run}", "--protocol=official,mine"], "unknown protocol 'mine'"),
        (["--weights={run}", "--config.stages=objects"], "config.stages='objects'"),
        (["--weights={run}/nowhere", "--config=configs/demo.py"], "no weights to start from"),
        (["--weights={stage2}", "--config=configs/s4.py:aavs"], "has no stage avss, whose weights"),
        (["--weights={run}/avss", "--config=configs/demo.py"], "is prompted with the masks of"),
        (["--weights={run}/avs", "--config=configs/s4.py:small"], "--config.data_dir is empty"),
    ],
)
def test_mistakes_are_one_line(flags, message, untrained, imported, command, tmp_path):
    places = {"run": untrained[0], **imported}
    flags = [flag.format(**places) for flag in flags]
    status, said, log = command(*flags, f"--workdir={tmp_path / 'out'}")
    assert (status, said) == (1, "")
    assert "Traceback" not in log
    assert message in log.splitlines()[-1]
    assert log.splitlines()[-1].startswith("error: ")
    assert not list(tmp_path.iterdir())


def test_a_dry_run_tells_and_writes_nothing(untrained, tmp_path, command):
    flags = (f"--weights={untrained[0]}", "--dry_run", f"--workdir={tmp_path / 'out'}")
    status, said, _ = command(*flags, "--config.stages=avss")
    assert status == 0
    assert "its masks prompt the other" in said
    assert "avss, builtin_tiny:test: 9 clips, 60 frames, 60 annotated, masks of stage avs" in said
    assert said.count("a batch of 8 frames") == 2
    assert "would be new" in said
    absent = f"--config.prepared_dir={tmp_path / 'prepared'}"
    status, said, _ = command(*flags, absent, "--config.stages=avs")
    assert "s4, builtin_tiny:test_v1s: not prepared" in said
    assert not list(tmp_path.iterdir())


def test_only_parameters_are_in_memory_and_only_scored_clips_are_read(untrained, tmp_path):
    gc.collect()
    before = {id(array) for array in jax.live_arrays()}
    opened = open_evaluation(untrained[1], [untrained[0]], tmp_path)
    gc.collect()
    there = [array for array in jax.live_arrays() if id(array) not in before]
    leaves = jax.tree.leaves(opened.params)
    # No moments of an optimiser, and no second copy.
    assert sum(array.nbytes for array in there) == sum(leaf.nbytes for leaf in leaves)
    words = {word for sets in opened.sets.values() for word in sets.values()}
    assert words == {f"builtin_tiny:test{subset}" for subset in ("", "_v1s", "_v1m")}


@slow
def test_four_devices_give_the_same_scores(untrained, whole, tmp_path):
    devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    # Five frames do not divide over four devices: empty slots fill the batches up.
    for changes in ([], ["--config.mesh.fsdp=2", "--config.avs.batch_size=5"]):
        out = tmp_path / str(len(changes))
        arguments = [f"--weights={untrained[0]}", f"--workdir={out}", *changes]
        command = [sys.executable, "-m", "ssp_jax.evaluate", *arguments]
        subprocess.run(command, cwd=ROOT, env=os.environ | devices, check=True)
        for name, result in _results(out).items():
            # Several devices add up in another order. A pixel with a logit next to 0 may then
            # change sides, which is 1e-5 of a score here.
            for key in ("miou", "fscore", "activated"):
                assert result[key] == pytest.approx(whole[1][name][key], abs=1e-4)
                assert result["silence"][key] == pytest.approx(
                    whole[1][name]["silence"][key], abs=1e-4
                )
