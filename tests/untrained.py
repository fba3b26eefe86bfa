"""A run's folder as if it had been trained, with random weights, for tests of what uses one."""

from pathlib import Path

import jax
import numpy as np

from ssp_jax.checkpoints import Checkpoints
from ssp_jax.run import keep_stage_facts, open_stages
from ssp_jax.run_folder import check_workdir
from ssp_jax.train_state import path_name


def random_params(stage, seed: int) -> dict:
    """Weights that let every part matter, without compiling an initialisation."""
    rng = np.random.default_rng(seed)

    def leaf(path, shape):
        noise = rng.normal(size=shape.shape).astype(np.float32)
        if noise.ndim > 1:
            return noise / np.float32(np.sqrt(noise[..., 0].size))
        return np.float32(path_name(path).endswith("scale")) + np.float32(0.2) * noise

    params = jax.tree_util.tree_map_with_path(leaf, stage.param_shapes)
    return jax.device_put(params, stage.param_shardings)


def untrained_run(config, workdir: Path):
    """(stages, parameters), both by name, of the run that is written into `workdir`."""
    stages = open_stages(config, workdir)
    check_workdir(config, workdir)
    keep_stage_facts(workdir, stages)
    params = {}
    for seed, (name, stage) in enumerate(stages.items()):
        params[name] = random_params(stage, seed)
        checkpoints = Checkpoints(stage.folder / "checkpoints")
        checkpoints.save_best(1, params[name], 0.5)
        checkpoints.close()
    return stages, params
