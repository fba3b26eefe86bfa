"""Checkpoints beyond what the whole road in test_run.py shows."""

import gc
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from ssp_jax.checkpoints import Checkpoints, read_best
from ssp_jax.errors import UserError
from ssp_jax.sharding import make_mesh
from ssp_jax.train_state import TrainState, state_maker

_WRITE_ON_EIGHT = """
import sys, jax
jax.config.update('jax_num_cpu_devices', 8)
import jax.numpy as jnp
from pathlib import Path
from ssp_jax.checkpoints import Checkpoints
from ssp_jax.sharding import make_mesh, state_sharding
mesh = make_mesh(fsdp=4)
params = {'layers': {0: jnp.arange(2**16, dtype=jnp.float32).reshape(256, 256)}, 'b': jnp.ones(3)}
checkpoints = Checkpoints(Path(sys.argv[1]))
checkpoints.save_best(0, jax.device_put(params, state_sharding(mesh, params)), 0.5)
checkpoints.close()
"""


def states(width: int = 40, extra: bool = False, tx=None):
    """How states of a small model are made, half of it random and half zeros."""

    def init(key):
        params = {"layers": {0: jax.random.normal(key, (width, 30)), 1: jnp.zeros(width)}}
        return params | ({"head": {"kernel": jnp.ones((3, 3))}} if extra else {})

    trained = frozenset(["layers/0", "layers/1", *(["head/kernel"] if extra else [])])
    return state_maker(init, tx or optax.adam(1e-3), trained, make_mesh())


def state_of(maker, step: int) -> TrainState:
    params = maker.new(jax.random.key(step)).params
    return maker.restart(jnp.int32(step), params)


def write(folder: Path, *steps: int) -> None:
    checkpoints, maker = Checkpoints(folder), states()
    for step in steps:
        state = state_of(maker, step)
        checkpoints.save_best(step, state.params, score=step / 10)
        checkpoints.save(state, {"next_batch": step, "loop": {"skipped": step}})
    checkpoints.close()


def restored(folder: Path, maker=None):
    checkpoints = Checkpoints(folder)
    found = checkpoints.restore(lambda step: maker or states())
    checkpoints.close()
    return found


def assert_is(found, step: int) -> None:
    state, progress = found
    jax.tree.map(np.testing.assert_array_equal, state, state_of(states(), step))
    assert progress["next_batch"] == progress["loop"]["skipped"] == step


def test_the_best_parameters_can_be_read_on_other_devices(tmp_path):
    folder = tmp_path / "checkpoints"
    subprocess.run([sys.executable, "-c", _WRITE_ON_EIGHT, str(folder)], check=True)
    params = read_best(folder)
    assert set(params) == {"layers/0", "b"}
    np.testing.assert_array_equal(params["layers/0"].ravel(), np.arange(2**16))


def test_a_folder_without_checkpoints_is_named_and_left_as_it_is(tmp_path):
    with pytest.raises(UserError, match="no checkpoint to start from"):
        read_best(tmp_path)
    assert not list(tmp_path.iterdir())


def flip(path: Path, rng: np.random.Generator) -> None:
    data = bytearray(path.read_bytes())
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    path.write_bytes(data)


def cut(path: Path, rng: np.random.Generator) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: rng.integers(len(data))])


def delete(path: Path, rng: np.random.Generator) -> None:
    del rng
    path.unlink()


@pytest.mark.parametrize("damage", [flip, cut, delete])
def test_a_damaged_checkpoint_is_told_and_the_one_before_taken(tmp_path, damage, caplog):
    write(tmp_path / "whole", 2, 4)
    rng, told = np.random.default_rng(0), 0
    last = tmp_path / "whole" / "last" / "4"
    files = sorted(path.relative_to(last) for path in last.rglob("*") if path.is_file())
    for file in [name for name in files if (last / name).stat().st_size]:
        folder = tmp_path / "damaged"
        shutil.copytree(tmp_path / "whole", folder)
        damage(folder / "last" / "4" / file, rng)
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="ssp_jax.checkpoints"):
            found = restored(folder)
        messages = [r.message for r in caplog.records if r.name == "ssp_jax.checkpoints"]
        if not messages:  # not all files matter; then it is as it was
            assert_is(found, 4)
        else:
            told += 1
            assert_is(found, 2)
            assert "step 4 is damaged" in messages[0]
            assert (folder / "damaged" / "last-4").is_dir()
        if told == 1:
            # The next one may be saved, and the best of what is done again is forgotten.
            checkpoints = Checkpoints(folder)
            checkpoints.go_on_from(2)
            assert checkpoints.best_step() == 2
            checkpoints.save(state_of(states(), 4), {"next_batch": 4, "loop": {"skipped": 4}})
            checkpoints.close()
            assert_is(restored(folder), 4)
        shutil.rmtree(folder)
    assert told >= 5
    # What orbax gave up halfway complains when it is collected: here, not in another test's output.
    gc.collect()


def test_where_no_checkpoint_is_whole_nothing_is_begun_anew(tmp_path):
    write(tmp_path, 2, 4)
    for step in (2, 4):
        (tmp_path / "last" / str(step) / "data" / "metadata").write_text("{")
    for _ in range(2):
        with pytest.raises(UserError, match=r"no checkpoint is whole \(step 4: .*; step 2: "):
            restored(tmp_path)


def test_damaged_best_parameters_are_named_with_what_to_delete(tmp_path):
    write(tmp_path, 2, 4)
    for data in (tmp_path / "best" / "4" / "params").glob("ocdbt.process_0/d/*"):
        cut(data, np.random.default_rng(1))
    checkpoints, maker = Checkpoints(tmp_path), states()
    with pytest.raises(UserError, match=r"delete last/4, best/4 there, .* goes on from step 2"):
        checkpoints.restore_best(maker.shapes.params, maker.shardings.params)
    with pytest.raises(UserError, match=r"best/4: damaged"):
        read_best(tmp_path)


def test_the_best_of_every_kept_state_stays(tmp_path):
    checkpoints, maker = Checkpoints(tmp_path), states()
    for step, score in ((1, 0.5), (2, 0.4), (3, 0.6), (4, 0.6), (5, float("nan")), (6, 0.1)):
        state = state_of(maker, step)
        checkpoints.save_best(step, state.params, score)
        checkpoints.save(state, {"next_batch": step})
        checkpoints.wait()
        kept = sorted(int(path.name) for path in (tmp_path / "best").iterdir())
        assert kept == {1: [1], 2: [1], 3: [1, 3], 4: [3], 5: [3], 6: [3]}[step]
    checkpoints.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 41}, r"float32 \[40, 30\] there, float32 \[41, 30\] here: .*params/layers/\*"),
        ({"extra": True}, "missing there: .*params/head/kernel"),
        ({"tx": optax.sgd(0.1)}, r"not known here: opt_state/\*/count, opt_state/\*/mu"),
    ],
)
def test_a_checkpoint_of_other_code_says_what_changed(tmp_path, change, message):
    write(tmp_path, 2, 4)
    with pytest.raises(UserError, match=message):
        restored(tmp_path, states(**change))
    assert_is(restored(tmp_path), 4)  # and stays


def test_checkpoints_before_checksums_still_load(tmp_path):
    state = state_of(states(), 3)
    args = ocp.args.Composite(
        state=ocp.args.StandardSave(state), data=ocp.args.JsonSave({"next_batch": 3})
    )
    with ocp.CheckpointManager(tmp_path / "last") as manager:
        manager.save(3, args=args)
    best = ocp.CheckpointManagerOptions(best_fn=lambda metrics: metrics["score"])
    with ocp.CheckpointManager(tmp_path / "best", options=best) as manager:
        args = ocp.args.Composite(params=ocp.args.StandardSave(state.params))
        manager.save(3, args=args, metrics={"score": 0.3})
    found, progress = restored(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, found, state)
    assert progress == {"next_batch": 3}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save_best(5, state.params, 0.2)
    assert checkpoints.best_step() == 3
    np.testing.assert_array_equal(read_best(tmp_path)["layers/0"], state.params["layers"][0])
    with pytest.raises(UserError, match=r"missing there: .*params/head/kernel"):
        restored(tmp_path, states(extra=True))


_FILL = """
import resource, sys
from pathlib import Path
from ssp_jax.checkpoints import Checkpoints
from ssp_jax.errors import UserError
from tests.test_checkpoints import state_of, states
maker = states(width=4000)
checkpoints = Checkpoints(Path(sys.argv[1]))
checkpoints.save(state_of(maker, 2), {'next_batch': 2})
checkpoints.wait()
# A write beyond fails, as on a full disk.
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoints.save(state_of(maker, 4), {'next_batch': 4})
    checkpoints.wait()
except UserError as error:
    print('error:', error)
"""


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    command = [sys.executable, "-c", _FILL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (line,) = [x for x in done.stdout.splitlines() if x.startswith("error:")]
    assert "cannot be written" in line
    assert "goes on from step 2, which is whole" in line
    maker = states(width=4000)
    state, _ = restored(tmp_path, maker)
    jax.tree.map(np.testing.assert_array_equal, state, state_of(maker, 2))
