"""A run with all of SSP, as if it had been trained: one for all tests of a worker."""

import pytest

from tests.tiny_run import get_config
from tests.untrained import untrained_run


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """(workdir, stages, parameters), both by name: `avss`, prompted by `avs`."""
    folder = tmp_path_factory.mktemp("predict")
    config = get_config(str(folder / "prepared"), "ssp")
    config.stages = "avs,avss"
    config.avss.prompt.source = "stage1"
    config.avs.batch_size = config.avss.batch_size = 10
    workdir = folder / "run"
    return workdir, *untrained_run(config, workdir)
