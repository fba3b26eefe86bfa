"""Trained stages to predict with: of a run's folder, or of imported weights of AAVS.

On whatever devices are here: what their config says of the mesh of a training is left aside.
"""

from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from ssp_jax.config import base
from ssp_jax.data.companions import Companions
from ssp_jax.data.datasets import DataSets
from ssp_jax.errors import UserError
from ssp_jax.run_facts import read_facts
from ssp_jax.stage import Stage
from ssp_jax.stage_sources import (
    check_has_stages,
    check_prompting,
    is_prompted,
    run_sources,
    stage_params,
    stage_sources,
)
from ssp_jax.weights.folder import is_weight_folder
from tfds_builders.classes import AVSS_CLASSES

TrainedStage = tuple[Stage, dict]  # with its parameters


def stages_of_run(workdir: Path) -> dict[str, TrainedStage]:
    """The stages of a run's folder: `avss` where it is trained, with `avs` if that prompts it.

    Raises:
      UserError: no run, none of these stages, or one that lacks what it needs.
    """
    facts = read_facts(workdir)
    config = facts.config
    try:
        sources = {name: [folder] for name, folder in run_sources(workdir, config).items()}
        if not sources:
            raise UserError(f"{workdir}: has no trained stage avs or avss")
        return _opened(config, facts.data, sources, str(workdir))
    except (AttributeError, KeyError) as error:
        raise UserError(
            f"{workdir}/config.json: of another version of this project ({error.args[0]})"
        ) from error


def stages_of_weights(config: ConfigDict, folders: Sequence[Path]) -> dict[str, TrainedStage]:
    """The stages of AAVS whose weight folders are given, with such as hold what AAVS's lack.

    Args:
      config: as for a training of these weights, such as configs/avss.py:aavs.

    Raises:
      UserError: none of them is AAVS's, or parameters are in none of them.
    """
    sources = stage_sources(folders)
    check_has_stages(config, sources)
    shown = ",".join(map(str, folders))
    return _opened(config, DataSets({}, AVSS_CLASSES, AVSS_CLASSES[1:]), sources, shown)


def _opened(
    config: ConfigDict, data: DataSets, sources: dict[str, list[Path]], where: str
) -> dict[str, TrainedStage]:
    name = "avss" if "avss" in sources else "avs"
    prompted = is_prompted(config, name)
    check_prompting(config, name, sources, where)
    config = config.copy_and_resolve_references()
    config.mesh = base().mesh  # the devices that are here, not those that it was trained on
    companions, opened = Companions(config, data, ()), {}
    for needed in ("avs", name) if prompted else (name,):
        if config[needed].prompt.source == "truth":
            raise UserError(f"{where}: stage {needed} is prompted with the truth, known to nobody")
        stage = Stage(config, needed, data, sources[needed][-1], companions, trains=False)
        opened[needed] = stage, stage_params(stage, sources[needed])
    return opened


def is_weights(folders: Sequence[Path]) -> bool:
    """Tell whether these are weight folders (all of them), not a run's.

    Raises:
      UserError: several folders, one of which is none.
    """
    weights = [is_weight_folder(folder) for folder in folders]
    if len(folders) > 1 and not all(weights):
        raise UserError(
            f"{folders[weights.index(False)]}: no weight folder; expected one run's folder, or "
            "weight folders separated by commas"
        )
    return all(weights)
