"""A trained run as a folder to hand on, which holds nothing that runs, and nothing of a machine:

  README.md, config.json, facts.json, results.json, tokeniser/
  avs/, avss/                    the best parameters as weight folders (ssp_jax/weights/folder.py)
  flow_weights/, clip_weights/   of the estimators that make the network's inputs, if it needs them

It is read as a run's folder is: by `ssp_jax.predict --checkpoint=`, and as config.init_from.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from ml_collections import ConfigDict

from ssp_jax.config import OF_THE_MACHINE, base
from ssp_jax.config_ranges import flat
from ssp_jax.errors import UserError
from ssp_jax.files import copy_file
from ssp_jax.hub.card import model_card
from ssp_jax.init_from import is_trained, read_weights
from ssp_jax.json_files import write_sealed
from ssp_jax.places import run_path
from ssp_jax.predict.checkpoint import stages_of_run
from ssp_jax.run_facts import FACTS, INPUT_WEIGHTS, TOKENISER, read_facts
from ssp_jax.run_folder import STAGES, read_results
from ssp_jax.stage_sources import NAMES
from ssp_jax.weights import folder as weight_folder
from ssp_jax.weights.folder import load_facts, save_weights
from tfds_builders.prepare import GENERATED

CARD, CONFIG, RESULTS = "README.md", "config.json", "results.json"
_WEIGHT_FOLDERS = (*NAMES.values(), *INPUT_WEIGHTS.values())
# Nothing but these is ever read of a folder that comes from somewhere: largest size in bytes.
_TEXT = 64 * 2**20
FILES = dict.fromkeys((CARD, CONFIG, FACTS, RESULTS, f"{TOKENISER}/tokenizer.json"), _TEXT)
for _folder in _WEIGHT_FOLDERS:
    FILES |= {
        f"{_folder}/{weight_folder.FACTS}": _TEXT,
        f"{_folder}/{weight_folder.WEIGHTS}": 2**35,
    }


def write_published(run: Path, folder: Path, name: str, licence: str | None) -> None:
    """Write a run's best parameters, and what belongs to them, into the empty `folder`.

    Args:
      name: what the model card calls it. licence: of the weights, as the Hugging Face hub names
        it; None for weights that nothing but the built-in benchmark went into.

    Raises:
      UserError: no run, nothing trained in it, or a licence has to be named.
    """
    facts = read_facts(run)
    config = facts.config
    trained = {n: _stage_folder(config, run, n) for n in NAMES.values() if n in config}
    trained = {name: place for name, place in trained.items() if is_trained(place)}
    if not trained:
        raise UserError(f"{run}: has no trained stage avs or avss")
    licence = licence or _own_licence(config, list(trained))
    sizes = {}
    for stage, place in trained.items():
        params = read_weights(place)
        sizes[stage] = sum(array.size for array in params.values())
        save_weights(folder / stage, params, {"source": "ssp_jax", "stage": stage})
    for section, target in INPUT_WEIGHTS.items():
        if config[section].weights and _needs(config, section):
            _copy_weights(Path(config[section].weights), folder / target)
    if (run / TOKENISER).exists():
        (folder / TOKENISER).mkdir()
        copy_file(run / TOKENISER / "tokenizer.json", folder / TOKENISER / "tokenizer.json")
    for file in (FACTS, RESULTS):
        if (run / file).exists():
            copy_file(run / file, folder / file)
    results = read_results(run / RESULTS) if (run / RESULTS).exists() else {}
    config = without_machine(config)
    write_sealed(folder / CONFIG, json.loads(config.to_json()))
    (folder / CARD).write_text(model_card(name, config, sizes, results, facts.code, licence))


def _stage_folder(config: ConfigDict, run: Path, name: str) -> Path:
    stage1 = config.avss.prompt.stage1 if name == "avs" and "avss" in config else ""
    return run_path(stage1 or run / name)


def _needs(config: ConfigDict, section: str) -> bool:
    if section == "flow":
        return config.flow.estimator == "perceiver"
    return config.model.vta_visual == "clip"


def _copy_weights(source: Path, target: Path) -> None:
    load_facts(source)  # or it is none
    target.mkdir()
    for file in (weight_folder.WEIGHTS, weight_folder.FACTS):
        shutil.copyfile(source / file, target / file)


def _own_licence(config: ConfigDict, stages: list[str]) -> str:
    words = {part.split(":")[0] for name in stages for word in config[name].train for part in
             word.split("+")}  # fmt: skip
    starts = ",".join([config.init_from, *(config[name].init_from for name in stages)])
    foreign = {word.strip() for word in starts.split(",")} - {"", *STAGES}
    if others := sorted(words - set(GENERATED)) + sorted(foreign):
        raise UserError(
            f"--licence is missing: this network comes from {', '.join(others)}, whose terms "
            "decide (AVSBench: cc-by-nc-4.0). Name one as the hub does, as --licence=cc-by-nc-4.0"
        )
    return "apache-2.0"


def without_machine(config: ConfigDict) -> ConfigDict:
    """Return the config without what tells of a machine: paths, devices, workers, caches.

    Of starting weights the names stay.
    """
    config = config.copy_and_resolve_references()
    defaults = flat(base().to_dict())
    there = flat(config.to_dict())  # older code knew fewer of them
    config.update_from_flattened_dict({k: defaults[k] for k in OF_THE_MACHINE if k in there})
    config.texts.update({"tokeniser": "", "file": Path(config.texts.file).name})
    for section in INPUT_WEIGHTS:
        config[section].weights = ""
    config.init_from = _names(config.init_from)
    for name in filter(config.__contains__, STAGES):
        config[name].init_from = _names(config[name].init_from)
        config[name].prompt.stage1 = ""
    return config


def _names(folders: str) -> str:
    return ",".join(Path(word.strip()).name for word in folders.split(",") if word.strip())


def read_published(
    sizes: Mapping[str, int], fetch: Callable[[str, Path], None], folder: Path, max_bytes: int
) -> None:
    """Bring what somebody has published into the empty `folder`, and look whether it is whole.

    Names of files are this module's, never the source's, and the config gets no say about this
    machine.

    Args:
      sizes: bytes of the source's files by relative path. fetch: (path, target) brings one here.
      max_bytes: of all that is brought.

    Raises:
      UserError: something is missing, too large, damaged, or of another version of this project.
    """
    wanted = {name: sizes[name] for name in FILES if name in sizes}
    if lacking := {CONFIG, FACTS} - wanted.keys():
        raise UserError(f"no published run: {', '.join(sorted(lacking))} not there")
    for name, size in wanted.items():
        if size > FILES[name]:
            raise UserError(f"{name}: {size} bytes, more than the {FILES[name]} it may have")
    if (total := sum(wanted.values())) > max_bytes:
        raise UserError(
            f"{total / 1e9:.1f} GB, more than the {max_bytes / 1e9:.1f} GB of --max_gb. Raise that "
            "if you trust the source"
        )
    for name, size in wanted.items():
        target = folder / name
        target.parent.mkdir(exist_ok=True)
        fetch(name, target)
        if target.stat().st_size != size:
            raise UserError(f"{name}: {target.stat().st_size} bytes came, {size} were announced")
    try:
        config = without_machine(read_facts(folder).config)
        write_sealed(folder / CONFIG, json.loads(config.to_json()))
        stages_of_run(folder)
    except UserError as error:
        raise UserError(str(error).replace(f"{folder}/", "").replace(str(folder), "it")) from error
    # A config that was not made by this project can make the network's modules raise anything.
    except Exception as error:
        raise UserError(f"{CONFIG}: no network can be built by it ({error!r:.200})") from error
