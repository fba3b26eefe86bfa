"""Train and score: python -m ssp_jax.main --config=configs/demo.py [--workdir=DIR] [--config.a.b=x]

Runs the stages that the config names, each trained, resumed or skipped as its folder says; ends
with a table, results.json and a picture per test set.
"""

import logging
import sys
from pathlib import Path

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from ssp_jax.data.companions import Companions
from ssp_jax.data.datasets import check_data_dir, open_datasets
from ssp_jax.errors import UserError
from ssp_jax.evaluators.report import format_table
from ssp_jax.mask_prompts import prompt_by
from ssp_jax.run_folder import check_config, check_workdir, stage_names, write_results
from ssp_jax.scores import evaluate
from ssp_jax.stage import Stage, stage_words

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this run; default runs/<config name>.")


def open_stages(config: ConfigDict, workdir: Path) -> dict[str, Stage]:
    """The stages that a run needs, by name: those it asks for, and the one that prompts them.

    Raises:
      UserError: see `check_config`, `open_datasets`, `Stage`.
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
    check_data_dir(config, words)
    check_config(config)
    data = open_datasets(config, words)
    folders = {name: workdir / name for name in needed}
    if prompted and config.avss.prompt.stage1:
        folders["avs"] = Path(config.avss.prompt.stage1)
    companions = Companions(config, data, words)
    return {name: Stage(config, name, data, folders[name], companions) for name in needed}


def run(config: ConfigDict, workdir: Path, *, brief: bool = False) -> dict[str, dict]:
    """All stages of a config: {"s4": {"miou", "fscore", ...}, ...}, also in results.json.

    Args:
      brief: see `scores.evaluate`.

    Raises:
      UserError: see `open_stages`, `check_workdir`.
    """
    stages = open_stages(config, workdir)
    check_workdir(config, workdir)
    results, params = {}, {}
    for name in stage_names(config):
        stage = stages[name]
        if stage.stage.prompt.source == "stage1":
            first = stages["avs"]
            prompt_by(first, params["avs"] if "avs" in params else first.trained(), stage)
        params[name] = stage.train()
        for test, result in evaluate(stage, params[name], brief=brief):
            results[test] = result
            write_results(workdir / "results.json", results)
    return results


def rescore(config: ConfigDict, workdir: Path) -> dict[str, dict]:
    """The scores of a finished run's parameters under another config, briefly; writes nothing.

    Raises:
      UserError: the run is not there or not finished; see `open_stages`.
    """
    stages, results = open_stages(config, workdir), {}
    for name in stage_names(config):
        stage = stages[name]
        if stage.stage.prompt.source == "stage1":
            prompt_by(stages["avs"], stages["avs"].trained(), stage, uses=("test",))
        results |= dict(evaluate(stage, stage.trained(), brief=True))
    return results


def main(argv: list[str]) -> None:
    """Entry of the command; a UserError becomes one line and exit status 1."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}: expected only --flags")
    _show_own_log()
    if _CONFIG.value is None:
        raise app.UsageError("--config is missing, for example --config=configs/demo.py")
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    workdir = Path(_WORKDIR.value or f"runs/{name.split(':')[0].removesuffix('.py')}")
    try:
        results = run(_CONFIG.value, workdir)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    if jax.process_index() == 0:
        print(format_table(results))
        print(f"\nresults: {workdir / 'results.json'}; pictures: {workdir}/*/*.png")


def _show_own_log() -> None:
    # Only this project's lines: orbax, TFDS and absl say dozens a minute that nobody asked for.
    absl_logging.set_verbosity(absl_logging.ERROR)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    for name in ("ssp_jax", "tfds_builders"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)


def _parse_flags(argv: list[str]) -> list[str]:
    # ml_collections and absl raise plain errors, some with a traceback inside the message, for
    # misspelt or mistyped overrides and for what a config file itself refuses.
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, TypeError, KeyError, ValueError, UserError) as error:
        # KeyError quotes its message; the last line is what follows a traceback.
        text = str(error.args[0] if error.args else error)
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        line = lines[-1] if "Traceback" in text else " ".join(lines)
        print(f"error: {line.removeprefix('ssp_jax.errors.UserError: ')}", file=sys.stderr)
        sys.exit(1)


def cli() -> None:
    """`python -m ssp_jax.main`."""
    app.run(main, flags_parser=_parse_flags)


if __name__ == "__main__":
    cli()
