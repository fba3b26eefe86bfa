"""Train and score: python -m ssp_jax.main --config=configs/demo.py [--workdir=DIR] [--config.a.b=x]

Runs the stages that the config names, each trained, resumed or skipped as its folder says; ends
with a table, results.json and a picture per test set.
"""

import sys
from pathlib import Path

import jax
from absl import app, flags
from ml_collections import config_flags

from ssp_jax.command_line import parse_flags, show_own_log
from ssp_jax.errors import UserError
from ssp_jax.evaluators.report import format_table
from ssp_jax.run import run

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this run; default runs/<config name>.")


def main(argv: list[str]) -> None:
    """Entry of the command; a UserError becomes one line and exit status 1."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}: expected only --flags")
    show_own_log()
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


def cli() -> None:
    """`python -m ssp_jax.main`."""
    app.run(main, flags_parser=parse_flags)


if __name__ == "__main__":
    cli()
