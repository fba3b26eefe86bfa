"""Trained stages to predict with: of a run's folder, or of imported weights of AAVS.

On whatever devices are here: what their config says of the mesh of a training is left aside.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from ssp_jax.config import base
from ssp_jax.data.companions import Companions
from ssp_jax.data.datasets import DataSets
from ssp_jax.errors import UserError
from ssp_jax.init_from import initial_params, is_trained
from ssp_jax.run_facts import read_facts
from ssp_jax.stage import Stage
from ssp_jax.weights.folder import is_weight_folder, load_facts
from tfds_builders.classes import AVSS_CLASSES

# Stages that tell what sounds, in their order, by AAVS's numbers.
NAMES = {1: "avs", 2: "avss"}
TrainedStage = tuple[Stage, dict]  # with its parameters

_LOG = logging.getLogger(__name__)


def stages_of_run(workdir: Path) -> dict[str, TrainedStage]:
    """The stages of a run's folder: `avss` where it is trained, with `avs` if that prompts it.

    Raises:
      UserError: no run, none of these stages, or one that lacks what it needs.
    """
    facts = read_facts(workdir)
    config = facts.config
    try:
        folders = {name: workdir / name for name in NAMES.values() if name in config}
        if "avss" in folders and config.avss.prompt.stage1:
            folders["avs"] = Path(config.avss.prompt.stage1)
        sources = {n: [f] for n, f in folders.items() if is_trained(f)}
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
    facts = {folder: load_facts(folder) for folder in folders}
    aavs = {NAMES.get(fact.get("stage")): folder for folder, fact in facts.items()}
    aavs.pop(None, None)
    others = [folder for folder in folders if folder not in aavs.values()]
    shown = ",".join(map(str, folders))
    if not aavs:
        raise UserError(
            f"{shown}: no weights of AAVS; expected a folder of python -m ssp_jax.weights import "
            "--source=aavs, and one of --source=vggish beside it, separated by a comma"
        )
    for name, folder in aavs.items():
        if name not in config:
            raise UserError(f"--config: has no stage {name}, whose weights {folder} holds")
    config = config.copy_and_resolve_references()
    config.init_from = shown  # nothing is read from there: a plan of phases wants it named
    sources = {name: [*others, folder] for name, folder in aavs.items()}
    return _opened(config, DataSets({}, AVSS_CLASSES, AVSS_CLASSES[1:]), sources, shown)


def _opened(
    config: ConfigDict, data: DataSets, sources: dict[str, list[Path]], where: str
) -> dict[str, TrainedStage]:
    name = "avss" if "avss" in sources else "avs"
    prompted = config[name].prompt.source == "stage1"
    if prompted and "avs" not in sources:
        raise UserError(
            f"{where}: stage {name} is prompted with the masks of stage avs, which is not there: "
            "train it in the same run, or name its weight folder too, separated by a comma"
        )
    config = config.copy_and_resolve_references()
    config.mesh = base().mesh  # the devices that are here, not those that it was trained on
    companions, opened = Companions(config, data, ()), {}
    for needed in ("avs", name) if prompted else (name,):
        if config[needed].prompt.source == "truth":
            raise UserError(f"{where}: stage {needed} is prompted with the truth, known to nobody")
        stage = Stage(config, needed, data, sources[needed][-1], companions)
        shapes = stage.phases[-1].states.shapes.params
        params, _, _ = initial_params(sources[needed], shapes, stage.shardings.params, None)
        _LOG.info("stage %s: %s", needed, ", ".join(map(str, sources[needed])))
        opened[needed] = stage, params
    return opened


def is_weights(folders: Sequence[Path]) -> bool:
    """Whether these are weight folders (all of them), not a run's.

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
