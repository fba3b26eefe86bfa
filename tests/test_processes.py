"""One run in two processes on one machine, beside the same run in one."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssp_jax import evaluate
from ssp_jax.checkpoints import Checkpoints
from ssp_jax.errors import UserError
from ssp_jax.processes import start
from ssp_jax.run import run
from ssp_jax.sharding import make_mesh, put_batch
from tests.tiny_run import get_config
from tests.two_processes import BATCH, STEP, evaluator, scores_of, states

slow = pytest.mark.skipif(
    os.environ.get("SSP_JAX_SLOW") != "1", reason="seven minutes on two cores: SSP_JAX_SLOW=1"
)
ROOT = Path(__file__).parent.parent
# So that stage 2 reads flow as well.
_CHANGES = {"avss.prompt.premask": True}


def _config(prepared):
    config = get_config(str(prepared))
    config.update_from_flattened_dict(_CHANGES)
    return config


def _free_port():
    """Of those that JAX takes under SLURM."""
    for port in range(61440 + os.getpid() % 4000, 65536):
        with socket.socket() as tried:
            if tried.connect_ex(("localhost", port)):
                return port
    raise OSError("no port is free")


def _by_flags(number, port):
    return [f"--coordinator=localhost:{port}", "--num_processes=2", f"--process_id={number}"], {}


def _by_slurm(number, port):
    # What `srun --ntasks=2` sets, of what JAX looks at.
    variables = {
        "SLURM_JOB_ID": port - 61440,  # JAX adds that
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": 2,
        "SLURM_PROCID": number,
        "SLURM_LOCALID": number,
    }
    return [], {name: str(value) for name, value in variables.items()}


def _in_two_processes(folder, *arguments, started=_by_flags, module="ssp_jax.main"):
    """[(exit status, output) of process 0, of process 1] of `python -m <module>`."""
    port, commands = _free_port(), []
    for number in range(2):
        flags, variables = started(number, port)
        commands.append((["-m", module, *flags, *arguments], variables))
    return _both(folder, commands)


def _both(folder, commands):
    """[(exit status, output)] of Python with these arguments and environment variables."""
    logs = [(folder / f"process{number}.log").open("w+") for number in range(2)]
    running = []
    for (arguments, variables), log in zip(commands, logs, strict=True):
        output = {"stdout": log, "stderr": subprocess.STDOUT}
        command, environment = [sys.executable, *arguments], os.environ | variables
        running.append(subprocess.Popen(command, cwd=ROOT, env=environment, **output))
    try:
        statuses = [process.wait(900) for process in running]
    finally:
        for process in running:
            process.kill()
    texts = []
    for log in logs:
        log.seek(0)
        texts.append(log.read())
        log.close()
    return list(zip(statuses, texts, strict=True))


def _train_in_two(workdir, prepared, *arguments):
    changes = [f"--config.{key}={value}" for key, value in _CHANGES.items()]
    config = [f"--config=tests/tiny_run.py:{prepared}", f"--workdir={workdir}", *changes]
    done = _in_two_processes(workdir.parent, *config, *arguments)
    assert [status for status, _ in done] == [0, 0], done
    return done


def _losses(workdir, stage):
    lines = [json.loads(line) for line in (workdir / stage / "metrics.jsonl").open()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def _assert_close(losses, others):
    assert losses.keys() == others.keys()
    for step, loss in losses.items():
        assert loss == pytest.approx(others[step], rel=1e-4), step


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(prepared data, run in two processes, run in one), of the same config."""
    folder = tmp_path_factory.mktemp("processes")
    prepared, two, one = folder / "prepared", folder / "two", folder / "one"
    (_, first), (_, second) = _train_in_two(two, prepared)
    assert "process 0 of 2, with 1 of 2 devices" in first
    # One process prepares, the other waits and finds it; of both, only the first reports.
    assert "avs step 4/4" in first
    assert "step" not in second
    run(_config(prepared), one)
    return prepared, two, one


@slow
def test_two_processes_train_and_score_as_one_does(runs):
    prepared, two, one = runs
    for stage in ("avs", "avss"):
        _assert_close(_losses(two, stage), _losses(one, stage))
    files = [{str(p.relative_to(w)) for p in w.glob("*/*.*")} for w in (two, one)]
    assert files[0] == files[1]
    results = [json.loads((w / "results.json").read_text()) for w in (two, one)]
    assert results[0].keys() == results[1].keys()
    for name, result in results[0].items():
        flat = [_flat(x) for x in (result, results[1][name])]
        assert flat[0] == pytest.approx(flat[1], abs=2e-3, nan_ok=True), name
        # What does not depend on the network is the same to the last bit.
        assert result["visible"] == results[1][name]["visible"]
    # Of training, validation and test clips, the last under three other sounds as well.
    assert len(list((prepared / "stage1_masks").iterdir())) == 2 * 6


def _flat(result):
    flat = {}
    for key, value in result.items():
        inner = value if isinstance(value, dict) else {"": value}
        flat |= {f"{key}/{name}": number for name, number in inner.items()}
    return flat


@slow
def test_a_checkpoint_of_two_processes_is_taken_up_by_one_and_back(runs):
    prepared, *workdirs = runs
    for workdir, other in zip(workdirs, ("one", "two"), strict=True):
        before = _losses(workdir, "avs")
        shutil.rmtree(workdir / "avs/checkpoints/last/4")
        if other == "one":
            config = _config(prepared)
            config.stages = "avs"
            run(config, workdir)
        else:
            done = _train_in_two(workdir, prepared, "--config.stages=avs")
            assert "going on at step 2" in done[0][1]
        _assert_close(_losses(workdir, "avs"), before)


@slow
def test_two_processes_score_weights_as_one_does(runs, tmp_path):
    one = runs[2]
    # Each batch is saved by both, or by none.
    arguments = [f"--weights={one}", f"--workdir={tmp_path / 'out'}", "--config.save_masks=True"]
    done = _in_two_processes(tmp_path, *arguments, module="ssp_jax.evaluate")
    assert [status for status, _ in done] == [0, 0], done
    assert "protocol official" in done[0][1]
    assert "protocol official" not in done[1][1]
    results = [json.loads((w / "results.json").read_text()) for w in (one, tmp_path / "out")]
    for name, result in results[0].items():
        flat = [_flat(x) for x in (result, results[1][name])]
        assert flat[0] == pytest.approx(flat[1], abs=1e-5, nan_ok=True), name
    # What they kept is taken up by one process, which has nothing left to count.
    (tmp_path / "out/results.json").unlink()
    evaluate.run(arguments)
    again = json.loads((tmp_path / "out/results.json").read_text())
    assert again == results[1]


def test_what_two_processes_share(tmp_path):
    mesh = make_mesh()
    maker = states(mesh)
    state = maker.restart(jnp.int32(STEP), maker.new(jax.random.key(1)).params)
    checkpoints = Checkpoints(tmp_path / "one")
    checkpoints.save(state, {"next_batch": STEP})
    checkpoints.close()
    port = _free_port()
    arguments = [["-m", "tests.two_processes", str(n), str(port), str(tmp_path)] for n in range(2)]
    environment = {
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    done = _both(tmp_path, [(one, environment) for one in arguments])
    assert [status for status, _ in done] == [0, 0], done
    # A program that one process had kept and the other not would hang.
    assert list(tmp_path.glob("compiled/*-cache")) == []
    placed = put_batch(mesh, BATCH)
    scored = evaluator().score(scores_of(placed), placed, BATCH)
    line = f"scores {dict(evaluator().results(scored))}"
    for number, (_, text) in enumerate(done):
        assert line in text
        assert f"done 2 {number == 0}" in text
    checkpoints = Checkpoints(tmp_path / "two")
    taken, progress = checkpoints.restore(lambda step: maker)
    best = checkpoints.restore_best(maker.shapes.params, maker.shardings.params)
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, taken, state)
    jax.tree.map(np.testing.assert_array_equal, best, state.params)
    assert progress["next_batch"] == STEP
    lines = (tmp_path / "metrics/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": STEP, "process": 0.0}]


@pytest.mark.parametrize("started", [_by_flags, _by_slurm])
def test_an_error_in_one_process_stops_both(tmp_path, started):
    arguments = ["--config=configs/s4.py:small", "--config.data_dir=nowhere"]
    arguments += [f"--workdir={tmp_path / 'run'}", f"--config.prepared_dir={tmp_path}"]
    done = _in_two_processes(tmp_path, *arguments, started=started)
    assert [status for status, _ in done] == [1, 1]
    errors = [[x for x in text.splitlines() if x.startswith("error:")] for _, text in done]
    assert "nowhere" in errors[0][0]
    assert errors[1] == ["error: another process stopped; its own message says why"]


def test_half_an_address_is_refused():
    with pytest.raises(UserError, match="all three, or none"):
        start("localhost:1234", 2, None)
    with pytest.raises(UserError, match="HOST:PORT"):
        start("localhost", 2, 0)


def test_a_machine_without_a_cluster_is_alone():
    code = "from ssp_jax.processes import start; start(None, None, None); import jax; "
    code += "print(jax.process_count(), jax.distributed.is_initialized())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "False"]
