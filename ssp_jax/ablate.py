"""Which part helps: python -m ssp_jax.ablate --config=configs/demo.py:ssp --seeds=3

  python -m ssp_jax.ablate --config=configs/s4.py --config.data_dir=DIR --tables=method --seeds=1

Trains every row of the tables (ablation_rows.py) with every seed, all from the same weights;
selects on validation, reports test. Rows that are done are not done again, one that was interrupted
goes on; ends with tables in Markdown, JSON and a plot, beside those that an earlier call with other
--tables left in the folder.
"""

import contextlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import app, flags
from ml_collections import ConfigDict

from ssp_jax.ablation_rows import FULL, TABLES, Row, check_full, possible, row_config
from ssp_jax.command_line import (
    config_and_workdir,
    reported,
    run_command,
    show_own_log,
    start_processes,
    tell_start,
)
from ssp_jax.errors import UserError
from ssp_jax.evaluators.ablation import ablation_markdown, ablation_plot, summarise
from ssp_jax.files import write_whole
from ssp_jax.json_files import read_object
from ssp_jax.processes import in_turn, is_first
from ssp_jax.run import hold, keep_compiled, rescore, run
from ssp_jax.run_folder import (
    check_config,
    check_workdir,
    read_results,
    stage_names,
    write_results,
)

_SEEDS = flags.DEFINE_integer("seeds", 3, "Trainings of each row.", lower_bound=1)
_TABLES = flags.DEFINE_list("tables", list(TABLES), f"Of {', '.join(TABLES)}.")

_LOG = logging.getLogger("ssp_jax.ablate")


def ablate(config: ConfigDict, workdir: Path, *, tables: Sequence[str], seeds: int) -> dict:
    """Train and score every row that is not done yet.

    Returns:
      {table: {row title: {test set: {score: [a value a seed]}}}}, also in `workdir`/ablation.json;
      with the tables of earlier calls.

    Raises:
      UserError: an unknown table, a config without a part that the rows turn off, an ablation.json
        that cannot be read; see `run`.
    """
    unknown = [name for name in tables if name not in TABLES]
    if unknown:
        raise UserError(f"--tables={','.join(unknown)}: expected some of {', '.join(TABLES)}")
    check_full(config)
    rows = {name: _rows_of(config, name) for name in tables}
    by_title = {row.title: row for part in rows.values() for row in part}
    # Those that score another row's parameters come when it is trained.
    order = sorted(by_title.values(), key=lambda row: row.parameters_of is not None)
    pretraining, config = config, _on_pretrained(config, workdir / "pretrained")
    for row in order:
        check_config(row_config(config, row))
    first = _first_of_each(config, order)
    other = _other_tables(workdir, tables)
    # A seed changes no shape, so what one seed compiled the others need not.
    keep_compiled(workdir)
    if "objects" in stage_names(pretraining):
        pretraining = pretraining.copy_and_resolve_references()
        # The folder is that of any rows with such objects.
        with pretraining.unlocked():
            for name in stage_names(config):
                del pretraining[name]
        pretraining.stages = "objects"
        run(pretraining, workdir / "pretrained", brief=True)
    scores: dict[str, list[dict]] = {row.title: [] for row in order}
    distinct = [row for row in order if first[row.title] is row]
    for seed in range(seeds):
        for row in order:
            if row in distinct:
                of = row.parameters_of and first[row.parameters_of.title]
                number = seed * len(distinct) + distinct.index(row) + 1
                place = f"{number} of {seeds * len(distinct)}"
                scores[row.title].append(_row_scores(config, workdir, row, of, seed, place))
            else:
                scores[row.title].append(scores[first[row.title].title][seed])
            summary = _write(workdir, rows, scores, other)
    return summary


def _on_pretrained(config: ConfigDict, folder: Path) -> ConfigDict:
    """The config for the rows: its stage `objects`, in place of pretrained weights, is trained once
    in `folder`, and every row of every seed starts from it."""
    config = config.copy_and_resolve_references()
    names = [name for name in stage_names(config) if name != "objects"]
    config.stages = ",".join(names)
    for name in names:
        words = [word.strip() for word in config[name].init_from.split(",")]
        words = [str(folder / word) if word == "objects" else word for word in words]
        config[name].init_from = ",".join(words)
    return config


def _rows_of(config: ConfigDict, table: str) -> list[Row]:
    """The rows that the config can have, beside the full method."""
    rows = TABLES[table] if FULL in TABLES[table] else (FULL, *TABLES[table])
    impossible = [row.title for row in rows if not possible(config, row)]
    if impossible:
        _LOG.info("left out, since the config has no such stage or map: %s", ", ".join(impossible))
    return [row for row in rows if row.title not in impossible]


def _first_of_each(config: ConfigDict, rows: Sequence[Row]) -> dict[str, Row]:
    """{title: the first row that trains and scores the same}: a row may ask for what the config has
    anyway, a post-mask weight of 10, say."""
    first: dict[tuple[str, str], Row] = {}
    found = {}
    for row in rows:
        trained, scored = row_config(config, row.parameters_of or row), row_config(config, row)
        found[row.title] = first.setdefault((trained.to_json(), scored.to_json()), row)
    return found


def _row_scores(
    config: ConfigDict, workdir: Path, row: Row, parameters_of: Row | None, seed: int, place: str
) -> dict[str, dict]:
    config = row_config(config, row)
    config.seed = seed
    folder = workdir / row.folder / f"seed{seed}"
    wanted = {name for stage in stage_names(config) for name in config[stage].test}
    path = folder / "results.json"
    if path.exists():
        in_turn(lambda: check_workdir(config, folder))
        results = read_results(path)
        if wanted <= results.keys():
            return {name: results[name] for name in sorted(wanted)}
    _LOG.info("row %s: %s, seed %d", place, row.title, seed)
    if parameters_of is None:
        return run(config, folder, brief=True)
    in_turn(lambda: check_workdir(config, folder))
    results = rescore(config, workdir / parameters_of.folder / f"seed{seed}")
    write_results(path, results)
    return results


def _other_tables(workdir: Path, tables: Sequence[str]) -> dict:
    """Return what earlier calls wrote of the tables that this one does not make."""
    path = workdir / "ablation.json"
    if not path.exists():
        return {}
    found = read_object(path, "Remove it, rows that are done are kept and their tables made again")
    return {name: table for name, table in found.items() if name in TABLES and name not in tables}


def _write(
    workdir: Path,
    rows: Mapping[str, Sequence[Row]],
    scores: Mapping[str, list[dict]],
    other: Mapping[str, dict],
) -> dict:
    made = {
        name: {row.title: summarise(scores[row.title]) for row in part if scores[row.title]}
        for name, part in rows.items()
    }
    both = {**other, **made}
    summary = {name: both[name] for name in TABLES if name in both}
    if not is_first():
        return summary
    paper = {row.title: dict(row.paper) for part in TABLES.values() for row in part}
    write_whole(workdir / "ablation.json", json.dumps(summary, indent=1) + "\n")
    write_whole(workdir / "ablation.md", ablation_markdown(summary, paper))
    for name, table in made.items():
        ablation_plot(workdir / f"{name}.png", table)
    return summary


def main(argv: list[str]) -> None:
    """Entry of the command."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}: expected only --flags")
    show_own_log()
    with reported():
        config, workdir = config_and_workdir("ablate-")
        start_processes()
        what = f"{_SEEDS.value} x the rows of {', '.join(_TABLES.value)}, each"
        tell_start(config, workdir, what)
        with contextlib.ExitStack() as stack:
            hold(stack, workdir)
            ablate(config, workdir, tables=_TABLES.value, seeds=_SEEDS.value)
        if is_first():
            print((workdir / "ablation.md").read_text())
            print(f"{workdir}/ablation.md, ablation.json, *.png")


def cli() -> None:
    """`python -m ssp_jax.ablate`."""
    run_command(main, __doc__)


if __name__ == "__main__":
    cli()
