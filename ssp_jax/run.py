"""From a config to results: opens the stages, trains or takes them up, scores them."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from ssp_jax.data.companions import Companions, check_companions
from ssp_jax.data.datasets import DataSets, check_data_dir, open_datasets
from ssp_jax.files import absolute
from ssp_jax.folder_lock import sole_writer
from ssp_jax.goodput import Goodput
from ssp_jax.mask_prompts import prompt_by
from ssp_jax.places import run_path
from ssp_jax.processes import in_turn, is_first
from ssp_jax.report.harmless import harmless
from ssp_jax.report.page import write_page
from ssp_jax.run_facts import keep_facts
from ssp_jax.run_folder import (
    check_config,
    check_run,
    check_workdir,
    stage_names,
    write_results,
)
from ssp_jax.run_inputs import check_inputs_kept, keep_inputs, run_inputs
from ssp_jax.run_machine import keep_machine
from ssp_jax.scores import evaluate
from ssp_jax.stage import Stage, stage_words
from ssp_jax.stage_training import train_stage, trained_params
from ssp_jax.start_checks import (
    check_before_data,
    check_beginnings,
    check_jax,
    check_no_evaluation,
)


def open_stages(
    config: ConfigDict,
    workdir: Path,
    open_data: Callable[[ConfigDict, Sequence[str]], DataSets] = open_datasets,
    make_companions: Callable[[ConfigDict, DataSets, Sequence[str]], Companions] = Companions,
) -> dict[str, Stage]:
    """The stages that a run needs, by name: those it asks for, and the one that prompts them.

    Args:
      open_data, make_companions: of a dry run, which prepares nothing.

    Raises:
      UserError: see `check_config`, `check_before_data`, `open_datasets`, `Stage`.
    """
    names = stage_names(config)
    prompted = "avss" in names and config.avss.prompt.source == "stage1"
    needed = ["avs", *names] if prompted and "avs" not in names else names
    words = [
        word
        for name in needed
        for sets in stage_words(config, name).values()
        for word in sets.values()
    ]
    benchmarks = check_data_dir(config, words)
    check_config(config)
    check_companions(config, benchmarks)
    check_before_data(config, needed, benchmarks)
    data = in_turn(lambda: open_data(config, words))
    folders = {name: workdir / name for name in needed}
    if prompted and config.avss.prompt.stage1:
        folders["avs"] = run_path(config.avss.prompt.stage1)
    companions = make_companions(config, data, words)
    return {name: Stage(config, name, data, folders[name], companions) for name in needed}


def run(
    config: ConfigDict, workdir: Path, *, brief: bool = False, began: float | None = None
) -> dict[str, dict]:
    """All stages of a config: {"s4": {"miou", "fscore", ...}, ...}, also in results.json.

    Args:
      brief: see `scores.evaluate`.
      began: the `time.monotonic()` from which on the run's time is counted; by default from now.

    Raises:
      UserError: see `start_checks`, `sole_writer`, `open_stages`, `check_workdir`.
    """
    goodput = Goodput(began)
    check_jax(config)
    check_no_evaluation(workdir)
    check_run(config, workdir)
    with contextlib.ExitStack() as stack:
        hold(stack, workdir, only_if_there=True)  # before data are prepared, which can take long
        stages = open_stages(config, workdir)
        check_beginnings(config, stages)
        inputs = run_inputs(config, stages)
        check_inputs_kept(config, workdir, inputs)
        hold(stack, workdir)
        in_turn(lambda: check_workdir(config, workdir))
        in_turn(lambda: keep_inputs(workdir, inputs))
        in_turn(lambda: keep_machine(config, workdir))
        return _run(config, workdir, stages, brief, goodput)


def hold(stack: contextlib.ExitStack, workdir: Path, *, only_if_there: bool = False) -> None:
    """See to it, until the stack is left, that no other run writes into the folder."""

    def enter() -> None:
        if is_first() and (workdir.exists() or not only_if_there):
            stack.enter_context(sole_writer(workdir))

    in_turn(enter)


def _run(
    config: ConfigDict, workdir: Path, stages: dict[str, Stage], brief: bool, goodput: Goodput
) -> dict[str, dict]:
    keep_compiled(workdir)
    in_turn(lambda: keep_stage_facts(workdir, stages))
    results, params = {}, {}
    for name in stage_names(config):
        stage = stages[name]
        if stage.stage.prompt.source == "stage1":
            first = stages["avs"]
            prompt_by(first, params["avs"] if "avs" in params else trained_params(first), stage)
        params[name] = train_stage(stage, goodput)
        with goodput.left_out():
            for test, result in evaluate(stage, params[name], brief=brief):
                results[test] = result
                write_results(workdir / "results.json", results)
        if config.report and not brief and is_first():
            with harmless(str(workdir)):
                write_page(workdir)
    return results


def keep_compiled(workdir: Path) -> None:
    """Compiled programs stay in the run's folder, so that the next start need not compile them.

    Unless JAX was told of another folder, as by JAX_COMPILATION_CACHE_DIR. Several processes of
    CPUs keep none, see `processes.start`.
    """
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(absolute(workdir / "compiled")))


def keep_stage_facts(workdir: Path, stages: dict[str, Stage]) -> None:
    """Keep what it takes to predict with these stages where their data are not, see `run_facts`."""
    reads_texts = [stage for stage in stages.values() if stage.reads_texts]
    tokeniser = reads_texts[0].companions.tokeniser if reads_texts else None
    keep_facts(workdir, next(iter(stages.values())).data, tokeniser)


def rescore(config: ConfigDict, workdir: Path) -> dict[str, dict]:
    """The scores of a finished run's parameters under another config, briefly; writes nothing.

    Raises:
      UserError: the run is not there or not finished; see `open_stages`.
    """
    stages, results = open_stages(config, workdir), {}
    for name in stage_names(config):
        stage = stages[name]
        if stage.stage.prompt.source == "stage1":
            prompt_by(stages["avs"], trained_params(stages["avs"]), stage, uses=("test",))
        results |= dict(evaluate(stage, trained_params(stage), brief=True))
    return results
