"""Score weights without training: python -m ssp_jax.evaluate --help"""

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from ssp_jax import config_of_run
from ssp_jax.command_line import read_config, reported, show_own_log, start_processes
from ssp_jax.devices import device_line
from ssp_jax.dry_run import evaluation_dry_run
from ssp_jax.errors import UserError
from ssp_jax.evaluation import SPLITS, open_evaluation, run_evaluation
from ssp_jax.evaluators.report import format_table
from ssp_jax.files import absolute
from ssp_jax.places import run_path, run_words
from ssp_jax.plain_commands import command_parser
from ssp_jax.processes import is_first
from ssp_jax.protocols import get_protocol, protocol_names
from ssp_jax.report.page import PAGE
from ssp_jax.stage_sources import run_of

_ABOUT = """\
Score weights on test sets, without training: mIoU and F-score by the protocol of a paper, under
sounds that nothing in the picture makes as well, and a report. FOLDER is one of
  a run's                     --workdir of python -m ssp_jax.main: its best parameters
  a stage's of a run          as runs/demo/avs
  a pulled network's          --out of python -m ssp_jax.hub pull
  imported weights            --out of python -m ssp_jax.weights import: AAVS's stage 1, 2 or both,
                              and VGGish's beside them, separated by commas
Stage 2 (avss) prompted by stage 1's masks needs both stages. Runs and pulled networks have their
own config, which is taken where --config is not given; --config.KEY=VALUE changes either.

It ends as a run does: a table, results.json, report.html and a picture per set in --workdir. The
same command goes on where it was stopped, to the same numbers bit by bit, and scores nothing twice.
Exit status: 0 done; 1 something to mend, in one line; 75 stopped by a scheduler's signal, 130 by
Ctrl-C: run it again."""
_EXAMPLES = """\
examples:
  python -m ssp_jax.evaluate --weights=runs/demo
  python -m ssp_jax.evaluate --weights=models/avss --config.data_dir=DIR --protocol=official,combo
  python -m ssp_jax.evaluate --config=configs/s4.py:aavs --config.data_dir=DIR \\
      --weights=weights/aavs_s4,weights/vggish --config.avs.batch_size=32
--config.stages=avs scores one stage of several; --config.save_masks=True, .negative_sounds=,
.report=False, .dtype=bfloat16, .STAGE.batch_size= and all others are those of a run."""
_LOG = logging.getLogger("ssp_jax.evaluate")  # also where this module is __main__


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("ssp_jax.evaluate", _ABOUT, _EXAMPLES)
    add = parser.add_argument
    add(
        "--weights",
        required=True,
        type=run_words,
        metavar="FOLDER[,FOLDER]",
        help="what is scored, see above",
    )
    add("--config", metavar="FILE.py", help="of imported weights: configs/s4.py:aavs and the like")
    add(
        "--protocol",
        metavar="NAME[,NAME]",
        help=f"{', '.join(protocol_names())}, in place of config.protocol; several each have a "
        "folder of their own in --workdir",
    )
    add(
        "--splits",
        default="test",
        metavar="SPLIT[,SPLIT]",
        help=f"whose sets of the config are scored: {' or '.join(SPLITS)} (%(default)s)",
    )
    add("--workdir", type=run_path, metavar="DIR", help="(runs/evaluate-NAME, by config or folder)")
    add("--dry_run", action="store_true", help="only say what would be scored, in how much memory")
    add("--coordinator", metavar="HOST:PORT", help="of several processes, see docs/scaling.md")
    add("--num_processes", type=int, metavar="N", help="likewise")
    add("--process_id", type=int, metavar="I", help="likewise")
    return parser


def _parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The flags, and the changes of the config."""
    parser = _parser()
    flags, others = parser.parse_known_args(argv)
    changes = [other for other in others if other.startswith("--config.")]
    if unknown := [other for other in others if other not in changes]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return flags, changes


def run(argv: Sequence[str] | None = None) -> None:
    """The command without its exit status, in processes that are started.

    Raises:
      UserError: see `read_config`, `open_evaluation`, `run_evaluation`.
    """
    flags, changes = _parse(argv)
    weights = [run_path(word) for word in _listed(flags.weights)]
    splits = _splits(flags.splits)
    config, name = _config(flags.config, changes, weights)
    workdir = flags.workdir or Path(f"runs/evaluate-{name}")
    for one, folder in _by_protocol(config, _listed(flags.protocol or ""), workdir):
        if flags.dry_run:
            for paragraph in evaluation_dry_run(one, weights, folder, splits):
                if is_first():
                    print(paragraph, flush=True)
            continue
        _evaluate(one, weights, folder, splits)


def _evaluate(
    config: ConfigDict, weights: Sequence[Path], workdir: Path, splits: Sequence[str]
) -> None:
    results = run_evaluation(open_evaluation(config, weights, workdir, splits))
    if is_first():
        print(f"protocol {config.protocol}")
        print(format_table(results))
        print(f"\nresults: {workdir / 'results.json'}; pictures: {workdir}/*/*.png")
        if config.report:
            print(f"report: {workdir / PAGE}")


def _listed(words: str) -> list[str]:
    return [word.strip() for word in words.split(",") if word.strip()]


def _splits(words: str) -> list[str]:
    splits = _listed(words)
    if not splits or not set(splits) <= set(SPLITS):
        raise UserError(f"--splits={words}: expected {', '.join(SPLITS)}, or both with a comma")
    return list(dict.fromkeys(splits))


def _config(
    path: str | None, changes: Sequence[str], weights: Sequence[Path]
) -> tuple[ConfigDict, str]:
    """The config, and what an evaluation by it is called."""
    if path is not None:
        return read_config(path, changes), Path(path.partition(":")[0]).stem
    run = run_of(weights)
    if run is None:
        raise UserError(
            f"--weights={','.join(map(str, weights))}: has no config.json, so --config=FILE.py has "
            "to say what model it is and on which data it is scored, such as configs/s4.py:aavs"
        )
    _LOG.info("config: that of %s; --config.KEY=VALUE changes it", run / "config.json")
    config = read_config(f"{config_of_run.__file__}:{run}", changes)
    stage_asked = any(change.startswith("--config.stages=") for change in changes)
    if weights[0] != run and not stage_asked:
        config.stages = weights[0].name
    return config, absolute(run).name


def _by_protocol(
    config: ConfigDict, names: Sequence[str], workdir: Path
) -> Iterator[tuple[ConfigDict, Path]]:
    for name in names or [config.protocol]:
        get_protocol(name)  # all of them, before any is scored
    for name in names or [config.protocol]:
        one = config.copy_and_resolve_references()
        one.protocol = name
        yield one, workdir / name if len(names) > 1 else workdir


def main() -> None:
    """Entry of the command."""
    show_own_log()
    with reported():
        flags, _ = _parse(None)
        start_processes(flags.coordinator, flags.num_processes, flags.process_id)
        _LOG.info("%s", device_line())
        run()
    sys.exit(0)


if __name__ == "__main__":
    main()
