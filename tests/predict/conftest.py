"""A run with all of SSP, as if it had been trained: one for all tests of a worker."""

import jax
import numpy as np
import pytest

from ssp_jax.checkpoints import Checkpoints
from ssp_jax.run import keep_stage_facts, open_stages
from ssp_jax.run_folder import check_workdir
from ssp_jax.train_state import path_name
from tests.tiny_run import get_config


def random_params(stage, seed: int) -> dict:
    """Weights that let every part matter, without compiling an initialisation."""
    rng = np.random.default_rng(seed)

    def leaf(path, shape):
        noise = rng.normal(size=shape.shape).astype(np.float32)
        if noise.ndim > 1:
            return noise / np.float32(np.sqrt(noise[..., 0].size))
        return np.float32(path_name(path).endswith("scale")) + np.float32(0.2) * noise

    params = jax.tree_util.tree_map_with_path(leaf, stage.phases[0].states.shapes.params)
    return jax.device_put(params, stage.shardings.params)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """(workdir, stages, parameters), both by name: `avss`, prompted by `avs`."""
    folder = tmp_path_factory.mktemp("predict")
    config = get_config(str(folder / "prepared"), "ssp")
    config.stages = "avs,avss"
    config.avss.prompt.source = "stage1"
    config.avs.batch_size = config.avss.batch_size = 10
    workdir = folder / "run"
    stages = open_stages(config, workdir)
    check_workdir(config, workdir)
    keep_stage_facts(workdir, stages)
    params = {}
    for seed, (name, stage) in enumerate(stages.items()):
        params[name] = random_params(stage, seed)
        checkpoints = Checkpoints(stage.folder / "checkpoints")
        checkpoints.save_best(1, params[name], 0.5)
        checkpoints.close()
    return workdir, stages, params
