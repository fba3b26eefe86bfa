"""On what a run's folder was trained last, and a line where it goes on on something else."""

import logging
from pathlib import Path

import jax
from ml_collections import ConfigDict

from ssp_jax.config import OF_THE_MACHINE
from ssp_jax.config_ranges import flat
from ssp_jax.devices import device_kinds
from ssp_jax.json_files import read_sealed, write_sealed
from ssp_jax.processes import is_first
from ssp_jax.run_facts import run_config
from ssp_jax.run_folder import differing_keys

MACHINE = "machine.json"
_LOG = logging.getLogger(__name__)


def keep_machine(config: ConfigDict, workdir: Path) -> None:
    """Write `machine.json` into a run's folder, and log what was otherwise at the last start.

    Its keys are those of `OF_THE_MACHINE`, 'devices' ('4 x cpu') and 'processes'. Process 0 does.

    Raises:
      UserError: what is there cannot be read.
    """
    if not is_first():
        return
    path, here = workdir / MACHINE, {"devices": device_kinds(), "processes": jax.process_count()}
    now = here | _of_the_machine(config.to_dict())
    if path.exists():
        before = read_sealed(path, "Delete it, and the same command writes it anew")
    else:  # a new folder, or one of older code
        before = here | _of_the_machine(run_config(workdir).to_dict())
    # Of a key that older code did not know there is nothing to tell.
    if differing := differing_keys(now | before, now):
        changes = "; ".join(f"{key} {new}, was {old}" for key, (old, new) in differing.items())
        _LOG.info("goes on with %s", changes)
    write_sealed(path, now)


def _of_the_machine(config: dict) -> dict:
    values = flat(config)
    return {key: values[key] for key in OF_THE_MACHINE if key in values}
