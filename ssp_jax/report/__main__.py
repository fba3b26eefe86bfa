"""Reports of finished runs: python -m ssp_jax.report --help"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ssp_jax.command_line import show_own_log
from ssp_jax.errors import UserError
from ssp_jax.files import absolute, write_whole
from ssp_jax.places import run_path
from ssp_jax.plain_commands import command_parser, run_and_exit
from ssp_jax.report.comparison import comparison_page
from ssp_jax.report.page import PAGE, write_page
from tfds_builders.places import local_path

_ABOUT = f"""\
Write the report of a run as one HTML page, RUN/{PAGE}, which a run does by itself at its end; or
of two runs side by side, RUN/comparison-OTHER.html, with the clips on which they differ most.
For these clips both runs predict once more, so their data and checkpoints have to be there."""
_EXAMPLES = """\
examples:
  python -m ssp_jax.report runs/demo
  python -m ssp_jax.report runs/baseline runs/ssp
  python -m ssp_jax.report runs/baseline runs/ssp --clips=0 --out=page.html"""
# What another program, or a hand, may have made of a file.
_DAMAGED = (KeyError, TypeError, ValueError, AttributeError, IndexError)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("ssp_jax.report", _ABOUT, _EXAMPLES)
    add = parser.add_argument
    add("run", type=run_path, metavar="RUN", help="the --workdir of python -m ssp_jax.main")
    add("other", type=run_path, metavar="OTHER", nargs="?", help="a run to compare it with")
    add(
        "--clips",
        type=int,
        default=3,
        metavar="N",
        help="shown of every test set where OTHER is ahead, and as many where RUN is; 0 needs no "
        "data (%(default)s)",
    )
    add("--out", type=local_path, metavar="FILE.html", help="the comparison's page")
    return parser


def run(argv: Sequence[str] | None = None) -> Path:
    """The command without its exit status; the path of the page.

    Raises:
      UserError: see `write_page`, `comparison_page`; or a run's records are damaged.
    """
    parser = _parser()
    flags = parser.parse_args(argv)
    if flags.clips < 0:
        parser.error(f"--clips={flags.clips}: expected 0 or more")
    if flags.other is None and flags.out:
        parser.error("--out is for two runs")
    try:
        if flags.other is None:
            return write_page(flags.run)
        text = comparison_page((flags.run, flags.other), flags.clips)
    except _DAMAGED as error:
        runs = " or ".join(str(run) for run in (flags.run, flags.other) if run)
        raise UserError(f"{runs}: records of another version, or damaged ({error!r})") from error
    path = flags.out or flags.run / f"comparison-{absolute(flags.other).name}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)
    return path


def main() -> None:
    """Entry of the command; a UserError becomes one message and exit status 1."""
    show_own_log()
    run_and_exit(lambda: print(run()))


if __name__ == "__main__":
    main()
