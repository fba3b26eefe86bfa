"""Runs on gs://, against a bucket on this machine."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gcsfs")

from ssp_jax import places
from ssp_jax.batch import fake_batch
from ssp_jax.checkpoints import Checkpoints, read_best
from ssp_jax.errors import UserError
from ssp_jax.evaluators.saved_masks import finish_masks, start_masks, write_masks
from ssp_jax.files import remove_folder, write_whole
from ssp_jax.goodput import without_times
from ssp_jax.hub import __main__ as hub
from ssp_jax.init_from import is_trained, read_weights
from ssp_jax.json_files import read_sealed, write_sealed
from ssp_jax.not_finite import Dump
from ssp_jax.places import run_path
from ssp_jax.prompts.tokeniser import Tokeniser, train_tokeniser
from ssp_jax.report import __main__ as report
from ssp_jax.report.record import read_records, write_record
from ssp_jax.run import run
from ssp_jax.step_trace import StepTrace
from ssp_jax.weights.folder import load_facts, save_weights
from ssp_jax.writers import MetricsWriter
from tests.object_store import ObjectStore
from tests.test_checkpoints import state_of, states, write
from tests.tiny_run import get_config

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def bucket():
    """The bucket; clients of this process and of those that it starts find it."""
    with ObjectStore() as store, pytest.MonkeyPatch.context() as patch:
        for name, value in store.variables.items():
            patch.setenv(name, value)
        places._problem.cache_clear()
        yield store
        places._problem.cache_clear()


def test_checkpoints(bucket, caplog):
    folder = run_path("gs://bucket/stage/checkpoints")
    write(folder, 1, 2, 3)
    kept = {name.split("/")[3] for name in bucket.names("stage/checkpoints/last/")}
    assert kept == {"2", "3"}
    assert is_trained(run_path("gs://bucket/stage"))
    best = read_weights(run_path("gs://bucket/stage"))
    expected = state_of(states(), 3).params["layers"][0]
    np.testing.assert_array_equal(best["layers/0"], expected)

    (largest,) = sorted(bucket.names("stage/checkpoints/last/3/state/"), key=bucket.size)[-1:]
    content, generation = bucket.objects[largest]
    bucket.objects[largest] = content[:200] + bytes(100) + content[300:], generation
    checkpoints, maker = Checkpoints(folder), states()
    with caplog.at_level(logging.WARNING):
        state, saved = checkpoints.restore(lambda step: maker)
    assert (int(state.step), saved["next_batch"]) == (2, 2)
    assert "the checkpoint of step 3 is damaged" in caplog.text
    assert bucket.names("stage/checkpoints/damaged/last-3/state/d/")
    assert not bucket.names("stage/checkpoints/last/3/")
    checkpoints.go_on_from(2)
    assert checkpoints.best_step() == 2
    assert not bucket.names("stage/checkpoints/best/3/")
    checkpoints.close()


def test_metrics_have_each_step_once(bucket, monkeypatch):
    folder = run_path("gs://bucket/metrics")

    def lines():
        return [json.loads(x)["step"] for x in (folder / "metrics.jsonl").read_text().splitlines()]

    writer = MetricsWriter(folder)
    for step in (1, 2, 3):  # the second and third within the time that an object is left alone
        writer.write(step, {"loss": 1.0})
    assert lines() == [1]
    writer.flush()
    assert lines() == [1, 2, 3]
    writer.write(4, {"loss": 1.0})
    writer.close()
    assert lines() == [1, 2, 3, 4]
    writer = MetricsWriter(folder, resume_step=2)
    assert lines() == [1, 2]
    writer.write(3, {"loss": 1.0})
    writer.close()
    assert lines() == [1, 2, 3]


def test_a_trace_lies_in_the_bucket_as_on_a_disk(bucket):
    trace = StepTrace(run_path("gs://bucket/run/avs/profile"), 2, 1)
    for number in (1, 2, 3):
        with trace.step(number, None):
            pass
        trace.after(number, None)
    written = [name.split("/") for name in bucket.names("run/avs/profile/plugins/profile/")]
    assert {path[-1].split(".", 1)[1] for path in written} >= {"xplane.pb", "trace.json.gz"}
    assert {len(path) for path in written} == {7}


def test_what_a_run_writes_besides(bucket, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = run_path("gs://bucket/other")
    write_sealed(folder / "config.json", {"a": [1]})
    assert read_sealed(folder / "config.json", "") == {"a": [1]}
    bucket.objects["other/config.json"] = b'{"a": [2], "sha256": "%064d"}' % 0, 1
    with pytest.raises(UserError, match="checksum"):
        read_sealed(folder / "config.json", "")
    with pytest.raises(UserError, match="cannot be read"):
        read_sealed(folder / "absent.json", "")

    train_tokeniser([("a dog barks", "dog")], tmp_path / "own").save(folder / "tokeniser")
    assert Tokeniser(folder / "tokeniser").encode_pairs([("a dog", "")], 8)["mask"].sum() == 5

    dumped, clips, _ = Dump(folder / "not_finite", [f"clip{n}" for n in range(99)], {}).write(
        3, {"loss": float("nan")}, batch := fake_batch(), {}
    )
    with (dumped / "batch-0.npz").open("rb") as file:
        np.testing.assert_array_equal(np.load(file)["frames"], batch.frames)
    assert json.loads((dumped / "step.json").read_text())["clips"] == clips

    def pictures(batch):
        return [Image.fromarray(labels) for labels in batch.labels]

    for uids in (["old"] * 99, ["new"] * 99):
        partial = start_masks(folder / "masks/s4", uids)
        write_masks(partial, batch, pictures(batch), uids, first=0)
        finish_masks(folder / "masks/s4")
    assert {name.split("/")[3] for name in bucket.names("other/masks/s4/")} == {"new"}

    write_record(folder / "avs", {"name": "s4", "format": 1})
    assert set(read_records(folder)) == {"s4"}

    save_weights(tmp_path / "weights", {"a": np.arange(3.0)}, {"source": "test"})
    for path in (tmp_path / "weights").iterdir():
        write_whole(folder / "weights" / path.name, path.read_bytes())
    np.testing.assert_array_equal(read_weights(folder / "weights")["a"], np.arange(3.0))
    assert load_facts(folder / "weights") == {"source": "test"}

    remove_folder(folder)
    remove_folder(folder)
    assert not bucket.names("other/")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own", "weights"]


def test_unknown_buckets_are_told(bucket):
    with pytest.raises(UserError, match="no bucket gs://elsewhere"):
        run_path("gs://elsewhere/run")


@pytest.mark.skipif(
    os.environ.get("SSP_JAX_SLOW") != "1", reason="over a minute on two cores: SSP_JAX_SLOW=1"
)
def test_a_run_goes_on_from_the_bucket_on_another_machine(bucket, tmp_path):
    """Killed behind its first checkpoint; the second start has another working directory."""
    config = get_config(str(tmp_path / "prepared"))
    config.stages, config.negative_sounds = "avs", ""
    with config.unlocked():
        del config.avs.val.ms3, config.avs.test.ms3
    expected = run(config, tmp_path / "local")
    text = "from ml_collections import ConfigDict\ndef get_config():\n  return ConfigDict(%r)\n"
    (tmp_path / "config.py").write_text(text % config.to_dict())

    def start(name):
        (tmp_path / name).mkdir()
        words = [f"--config={tmp_path}/config.py", "--workdir=gs://bucket/run"]
        return subprocess.Popen(
            [sys.executable, "-m", "ssp_jax.main", *words],
            cwd=tmp_path / name,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    first = start("one")
    threading.Thread(target=_kill_once_saved, args=(bucket, first), daemon=True).start()
    log = first.communicate(timeout=300)[0]
    assert first.returncode == -signal.SIGKILL, log
    second = start("two")
    log = second.communicate(timeout=300)[0]
    assert second.returncode == 0, log
    assert "avs: going on at step 2" in log
    assert not list((tmp_path / "one").iterdir())
    assert not list((tmp_path / "two").iterdir())

    there = run_path("gs://bucket/run")
    assert json.loads((there / "results.json").read_text()) == expected
    written, here = ((f / "avs/metrics.jsonl").read_text() for f in (there, tmp_path / "local"))
    assert _numbers(written) == _numbers(here)
    assert bucket.names("run/avs/events/")
    assert {"run/avs/s4.png", "run/config.json", "run/facts.json"} <= set(bucket.names("run/"))
    assert hub.run(["push", str(there), f"--to={tmp_path}/pushed"]) == f"{tmp_path}/pushed"
    assert report.run([str(there)]) == there / "report.html"
    best = read_weights(tmp_path / "pushed/avs")
    np.testing.assert_equal(best, read_weights(there))
    np.testing.assert_equal(
        read_best(there / "avs/checkpoints"), read_best(tmp_path / "local/avs/checkpoints")
    )


def _kill_once_saved(bucket, process):
    while "run/avs/checkpoints/last/2/commit_success.txt" not in bucket.objects:
        time.sleep(0.01)
    process.kill()


def _numbers(text):
    return [without_times(json.loads(line)) for line in text.splitlines()]
