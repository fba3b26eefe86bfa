"""Scores of weights that are there, without a training: opens the stages, scores them, reports."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ssp_jax.checksums import digest_of
from ssp_jax.data.companions import Companions, check_companions
from ssp_jax.data.datasets import DataSets, check_data_dir, open_datasets
from ssp_jax.errors import UserError
from ssp_jax.evaluation_folder import (
    check_evaluation_folder,
    compare_evaluation_folder,
    read_evaluation,
)
from ssp_jax.evaluators.robustness import KEYS
from ssp_jax.kept_scores import Keeper
from ssp_jax.mask_prompts import prompt_by
from ssp_jax.processes import in_turn, is_first
from ssp_jax.report.harmless import harmless
from ssp_jax.report.page import write_page
from ssp_jax.report.record import record_path
from ssp_jax.run import hold, keep_compiled
from ssp_jax.run_facts import read_facts
from ssp_jax.run_folder import check_config, read_results, stage_names, write_results
from ssp_jax.scores import asked_sounds, evaluate, masks_folder, picture_path
from ssp_jax.sharding import make_mesh
from ssp_jax.stage import Stage, stage_words
from ssp_jax.stage_sources import (
    Sources,
    check_has_stages,
    check_prompting,
    is_prompted,
    run_of,
    stage_params,
    stage_sources,
)

SPLITS = ("test", "val")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Stages with their weights and the data that they are to be scored on.

    Attributes:
      config: as given. workdir: folder of what is written.
      stages, params, sources: by stage; of those that are scored, and of the one that prompts them.
      sets: stage -> name in results -> 'benchmark:split' words; of the stages that are scored.
      splits: those that the sets are of.
    """

    config: ConfigDict
    workdir: Path
    stages: Mapping[str, Stage]
    params: Mapping[str, dict]
    sources: Sources
    sets: Mapping[str, Mapping[str, str]]
    splits: Sequence[str]

    @property
    def folders(self) -> Mapping[str, Path]:
        """Benchmark -> prepared folder."""
        return next(iter(self.stages.values())).data.folders


def open_evaluation(
    config: ConfigDict,
    weights: Sequence[Path],
    workdir: Path,
    splits: Sequence[str] = ("test",),
    open_data: Callable[[ConfigDict, Sequence[str]], DataSets] = open_datasets,
    make_companions: Callable[[ConfigDict, DataSets, Sequence[str]], Companions] = Companions,
) -> Evaluation:
    """Open the stages whose weights are given and that the config asks for.

    Args:
      weights: see `stage_sources`.
      splits: 'test', 'val' or both: whose sets of the config are scored.
      open_data, make_companions: of a dry run, which prepares nothing.

    Raises:
      UserError: weights or data are not there, do not belong together, or are not of this config.
    """
    sources = stage_sources(weights)
    names = _scored_stages(config, sources, ",".join(map(str, weights)))
    sets = {name: _sets(config, name, splits) for name in names}
    words = list(dict.fromkeys(word for of_stage in sets.values() for word in of_stage.values()))
    if not words:
        raise UserError(
            f"--splits={','.join(splits)}: config.{names[0]} has no such sets; expected one of "
            f"{', '.join(SPLITS)} that has"
        )
    benchmarks = check_data_dir(config, words)
    check_config(config, trains=False)
    check_companions(config, benchmarks)
    needed = names if "avs" in names or not is_prompted(config, names[-1]) else ["avs", *names]
    config_here = _for_these_devices(config, needed)
    data = in_turn(lambda: open_data(config_here, words))
    if (run := run_of(weights)) is not None:
        data = _as_in_run(data, read_facts(run).data, run, names)
    companions = make_companions(config_here, data, words)
    stages = {
        name: Stage(config_here, name, data, workdir / name, companions, trains=False)
        for name in needed
    }
    params = {name: stage_params(stage, sources[name]) for name, stage in stages.items()}
    return Evaluation(config, workdir, stages, params, sources, sets, splits)


def _scored_stages(config: ConfigDict, sources: Sources, where: str) -> list[str]:
    check_has_stages(config, sources)
    asked = stage_names(config)
    names = [name for name in asked if name in sources]
    if not names:
        raise UserError(
            f"{where}: holds stage {', '.join(sources)}, but config.stages={config.stages!r} asks "
            f"for others; score it by --config.stages={','.join(sources)}"
        )
    for name in names:
        check_prompting(config, name, sources, where)
    return names


def _sets(config: ConfigDict, name: str, splits: Sequence[str]) -> dict[str, str]:
    """Name in results -> words. Those of val are told from those of test, which may be called
    alike."""
    words = stage_words(config, name)
    return {
        key if split == "test" else f"{split}_{key}": word
        for split in splits
        for key, word in words[split].items()
    }


def _for_these_devices(config: ConfigDict, names: Sequence[str]) -> ConfigDict:
    """Return the config with batches that divide over the devices; empty slots count nowhere."""
    config = config.copy_and_resolve_references()
    devices = make_mesh(**config.mesh.to_dict()).size
    for name in names:
        config[name].batch_size = -(-config[name].batch_size // devices) * devices
    return config


def _as_in_run(data: DataSets, facts: DataSets, run: Path, names: Sequence[str]) -> DataSets:
    """Return the data with the sounds that the run's network tells apart."""
    if "avss" in names and data.class_names != facts.class_names:
        raise UserError(
            f"{run}: its network names {len(facts.class_names)} classes, background included, and "
            f"the data have {len(data.class_names)}, or in another order: expected data of the "
            "benchmark that it was trained on"
        )
    return dataclasses.replace(data, sound_names=facts.sound_names)


def run_evaluation(opened: Evaluation) -> dict[str, dict]:
    """Score all sets that are not scored yet: {"s4": {"miou", "fscore", ...}, ...}.

    They are in results.json as well, as those of a run are, with pictures and a report.

    Raises:
      UserError: the folder holds the scores of other weights, data or another config; another
        process writes there.
    """
    with contextlib.ExitStack() as stack:
        hold(stack, opened.workdir)
        return _run_evaluation(opened)


def _run_evaluation(opened: Evaluation) -> dict[str, dict]:
    config, workdir = opened.config, opened.workdir
    identity = _identity(opened)
    in_turn(lambda: check_evaluation_folder(config, workdir, identity))
    keep_compiled(workdir)
    results = {}
    for name, sets in opened.sets.items():
        stage, params = opened.stages[name], opened.params[name]
        kept = _kept_results(stage, sets, workdir)
        todo = {key: words for key, words in sets.items() if key not in kept}
        if todo and is_prompted(config, name):
            prompt_by(opened.stages["avs"], opened.params["avs"], stage, uses=opened.splits)
        deciding = ["avs", name] if is_prompted(config, name) else [name]
        decides = {
            "weights": {key: identity["weights"][key]["digest"] for key in deciding},
            "batch_size": stage.stage.batch_size,
        }
        keeper = Keeper(stage.folder / "counts", decides)
        for key, result in evaluate(stage, params, sets=todo, keeper=keeper):
            kept[key] = result
            write_results(workdir / "results.json", {key: result})
        results |= {key: kept[key] for key in sets}
        if config.report and is_first():
            with harmless(str(workdir)):
                write_page(workdir)
    return results


def is_going_on(opened: Evaluation) -> bool:
    """Return whether the folder holds this evaluation already; for a dry run.

    Raises:
      UserError: see `compare_evaluation_folder`.
    """
    prepared = all(folder.exists() for folder in opened.folders.values())
    identity = _identity(opened) if prepared else {"weights": _weights(opened)}
    identity.pop("texts", None)  # there may be no tokeniser yet
    compare_evaluation_folder(opened.config, opened.workdir, identity)
    return read_evaluation(opened.workdir) is not None


def _weights(opened: Evaluation) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "digest": digest_of(params),
            "from": [str(folder) for folder in opened.sources[name]],
        }
        for name, params in opened.params.items()
    }


def _identity(opened: Evaluation) -> dict[str, Any]:
    """Return what decides on the scores, as JSON values: weights, data, texts by what they hold."""
    identity: dict[str, Any] = {"weights": _weights(opened), "data": {}, "texts": {}}
    stages = opened.stages
    for name, sets in opened.sets.items():
        for words in sets.values():
            identity["data"][words] = stages[name].data.source(words).fingerprint()
            if any(stage.reads_texts for stage in stages.values()):
                identity["texts"][words] = digest_of(stages[name].companions.texts(words))
    return identity


def _kept_results(stage: Stage, sets: Mapping[str, str], workdir: Path) -> dict[str, dict]:
    """Return the results of the sets that are wholly scored: numbers, picture, masks, record."""
    path, kept = workdir / "results.json", {}
    results = read_results(path) if path.exists() else {}
    for key, words in sets.items():
        result = results.get(key)
        files = [picture_path(stage, key)]
        files += [record_path(stage.folder, key)] if stage.config.report else []
        files += [masks_folder(stage, key)] if stage.config.save_masks else []
        sounds = [KEYS[sound] for sound in asked_sounds(stage, words)]
        if result and all(map(Path.exists, files)) and all(sound in result for sound in sounds):
            kept[key] = result
    return kept
