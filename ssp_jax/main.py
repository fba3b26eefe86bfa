"""Train and score: python -m ssp_jax.main --config=configs/demo.py [--workdir=DIR] [--config.a.b=x]

  python -m ssp_jax.main --config=configs/demo.py:ssp --config.seed=1 --workdir=runs/seed1
  python -m ssp_jax.main --config=configs/avss.py --config.data_dir=DIR --config.init_from=WEIGHTS
  python -m ssp_jax.main --config=configs/s4.py --config.data_dir=DIR --dry_run

Runs the stages that the config names, each trained, resumed or skipped as its folder says; ends
with a table, results.json, a report (report.html) and a picture per test set. The same command goes
on after a crash or a kill, to the same numbers bit by bit. Exit status: 0 done; 1 something to
mend, in one line; 75 stopped by SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU or SIGHUP, 130 by Ctrl-C, the
state saved: run it again. A second Ctrl-C leaves at once.
"""

import logging

from absl import app, flags

from ssp_jax.command_line import (
    config_and_workdir,
    reported,
    run_command,
    show_own_log,
    start_processes,
    tell_start,
)
from ssp_jax.dry_run import dry_run
from ssp_jax.evaluators.report import format_table
from ssp_jax.goodput import process_began
from ssp_jax.processes import is_first
from ssp_jax.report.page import PAGE
from ssp_jax.run import run

_DRY_RUN = flags.DEFINE_bool(
    "dry_run",
    False,
    "Only say what a run would do: data found, parameters, FLOPs and memory of each phase's step.",
)


def main(argv: list[str]) -> None:
    """Entry of the command."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}: expected only --flags")
    show_own_log()
    with reported():
        config, workdir = config_and_workdir()
        start_processes()
        if _DRY_RUN.value:
            logging.getLogger("ssp_jax.stage").setLevel(logging.WARNING)  # says the same
            for paragraph in dry_run(config, workdir):
                if is_first():
                    print(paragraph, flush=True)
            return
        tell_start(config, workdir)
        results = run(config, workdir, began=process_began())
        if is_first():
            print(format_table(results))
            print(f"\nresults: {workdir / 'results.json'}; pictures: {workdir}/*/*.png")
            if config.report:
                print(f"report: {workdir / PAGE}")


def cli() -> None:
    """`python -m ssp_jax.main`."""
    run_command(main, __doc__)


if __name__ == "__main__":
    cli()
