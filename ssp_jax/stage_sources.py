"""Which folders hold the weights of which stage, wherever a network can come from."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from ssp_jax.errors import UserError
from ssp_jax.init_from import initial_params, is_trained, read_weights
from ssp_jax.places import run_path
from ssp_jax.run_facts import run_config
from ssp_jax.stage import Stage
from ssp_jax.weights.folder import is_weight_folder, load_facts

# Stages that tell what sounds, in their order, by AAVS's numbers.
NAMES = {1: "avs", 2: "avss"}
Sources = Mapping[str, Sequence[Path]]
_LOG = logging.getLogger(__name__)


def run_sources(workdir: Path, config: ConfigDict) -> dict[str, Path]:
    """Return stage -> its folder, of the stages that a run of this config has trained."""
    folders = {name: workdir / name for name in NAMES.values() if name in config}
    if "avss" in folders and config.avss.prompt.stage1:
        folders["avs"] = run_path(config.avss.prompt.stage1)
    return {name: folder for name, folder in folders.items() if is_trained(folder)}


def run_of(folders: Sequence[Path]) -> Path | None:
    """Return the run that one folder is, or is a stage of; None of weights that come without."""
    if len(folders) != 1:
        return None
    places = [folders[0]]
    if folders[0].name in NAMES.values():
        places.append(folders[0].parent)
    return next((place for place in places if (place / "config.json").is_file()), None)


def stage_sources(folders: Sequence[Path]) -> dict[str, list[Path]]:
    """Return stage -> the folders of its weights; of two that have a parameter the last counts.

    Args:
      folders: of `ssp_jax.weights import`, of `ssp_jax.hub pull`, of a run, or of a run's stage.
        Those that are of no stage, as VGGish's, are of all.

    Raises:
      UserError: there are none, none of a stage, or two of the same.
    """
    shared: list[Path] = []
    own: dict[str, list[Path]] = {}
    for folder in folders:
        stages = _stages_in(folder)
        for name, place in stages.items():
            own.setdefault(name, []).append(place)
        shared += [] if stages else [folder]
    for name, places in own.items():
        if len(places) > 1:
            raise UserError(
                f"{places[0]} and {places[1]} both hold stage {name}: expected one of them"
            )
    if not own:
        raise UserError(
            f"{','.join(map(str, folders))}: no weights of AAVS; expected a folder of python -m "
            "ssp_jax.weights import --source=aavs, and one of --source=vggish beside it, separated "
            "by a comma; or the folder of a run"
        )
    return {name: [*shared, *own[name]] for name in NAMES.values() if name in own}


def _stages_in(folder: Path) -> dict[str, Path]:
    """Return stage -> where its weights are; empty for weights of no stage."""
    if is_weight_folder(folder):
        stage = load_facts(folder).get("stage")
        name = NAMES.get(stage, stage)
        return {name: folder} if name in NAMES.values() else {}
    if (folder / "config.json").is_file():
        stages = run_sources(folder, run_config(folder))
        if not stages:
            raise UserError(f"{folder}: has no trained stage avs or avss")
        return stages
    if folder.name in NAMES.values() and is_trained(folder):
        return {folder.name: folder}
    if is_trained(folder):
        raise UserError(
            f"{folder}: of which stage? Expected a stage's folder by the name that a run gives it, "
            f"{' or '.join(NAMES.values())}, or the run's folder"
        )
    read_weights(folder)  # says what is wrong
    return {}


def is_prompted(config: ConfigDict, name: str) -> bool:
    """Return whether a stage is prompted with the masks of stage avs."""
    return config[name].prompt.source == "stage1"


def check_has_stages(config: ConfigDict, sources: Sources) -> None:
    """Refuse weights of a stage that the config does not have.

    Raises:
      UserError: see above.
    """
    for name, folders in sources.items():
        if name not in config:
            raise UserError(f"--config: has no stage {name}, whose weights {folders[-1]} holds")


def check_prompting(config: ConfigDict, name: str, sources: Sources, where: str) -> None:
    """Refuse a stage that is prompted by another whose weights are not there.

    Raises:
      UserError: see above; `where` is what was looked through.
    """
    if is_prompted(config, name) and "avs" not in sources:
        raise UserError(
            f"{where}: stage {name} is prompted with the masks of stage avs, which is not there: "
            "train it in the same run, or name its weight folder too, separated by a comma (AAVS: "
            "python -m ssp_jax.weights import --source=aavs --path=STAGE1.pth --out=DIR)"
        )


def stage_params(stage: Stage, folders: Sequence[Path]) -> dict:
    """Return a stage's parameters on its devices, all of them from the folders.

    Raises:
      UserError: see `initial_params`.
    """
    params, _, _ = initial_params(folders, stage.param_shapes, stage.param_shardings, None)
    _LOG.info("stage %s: %s", stage.name, ", ".join(map(str, folders)))
    return params
