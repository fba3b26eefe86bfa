"""The config of a run's folder, or of one of `ssp_jax.hub`, as a config file: THIS_FILE:FOLDER.

So a command that takes --config can start from the folder alone, and --config.a.b=x changes it.
"""

from pathlib import Path

from ml_collections import ConfigDict

from ssp_jax.run_facts import read_facts


def get_config(folder: str) -> ConfigDict:
    """Return the config that the folder was trained by, for the devices that are here.

    Raises:
      UserError: see `read_facts`.
    """
    config = read_facts(Path(folder)).config
    config.mesh.update({"data": 0, "fsdp": 1})
    return config
