"""Checkpoints beyond what the whole road in test_run.py shows."""

import subprocess
import sys

import numpy as np
import pytest

from ssp_jax.checkpoints import read_best
from ssp_jax.errors import UserError

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
