"""Prepares a downloaded benchmark for training, in one command.

    python -m tfds_builders.prepare --benchmark=s4 --source=DIR [--prepared_dir=DIR]
        [--frame_size=384] [--allow_missing] [--repeat_last_frame]

DIR is the folder as downloaded: for s4 and ms3 the one that holds `Single-source/` and
`Multi-sources/` (or one of the two), for avss the one with `metadata.csv`. The command may be
stopped at any time; run again, it goes on where it stopped. `--benchmark=builtin` generates the
built-in benchmark and needs no folder.

    python -m tfds_builders.prepare --benchmark=s4 --source=AVSBench --frame_size=384
    python -m tfds_builders.prepare --benchmark=avss --source=AVSBench/AVSS --allow_missing
"""

import argparse
import importlib
import logging
import sys
from pathlib import Path

from ssp_jax.errors import UserError
from tfds_builders.base import (
    ClipBuilder,
    Options,
    check_options,
    check_same,
    planned_facts,
    prepare_dataset,
)
from tfds_builders.facts import DatasetFacts, read_dataset_facts
from tfds_builders.places import local_path

DEFAULT_PREPARED_DIR = "prepared"

# benchmark -> (module, builder class). Builders in GENERATED need no source folder.
BENCHMARKS: dict[str, tuple[str, str]] = {
    "s4": ("tfds_builders.avs_s4", "AvsS4"),
    "ms3": ("tfds_builders.avs_ms3", "AvsMs3"),
    "avss": ("tfds_builders.avss", "Avss"),
    "builtin": ("tfds_builders.avs_builtin", "AvsBuiltin"),
    "builtin_tiny": ("tfds_builders.avs_builtin", "AvsBuiltinTiny"),
}
GENERATED = {"builtin", "builtin_tiny"}


def builder_class(benchmark: str) -> type[ClipBuilder]:
    """The builder of a benchmark.

    Raises:
      UserError: unknown name.
    """
    if benchmark not in BENCHMARKS:
        known = ", ".join(BENCHMARKS)
        raise UserError(f"benchmark: no benchmark called {benchmark!r}; there are {known}.")
    module, name = BENCHMARKS[benchmark]
    return getattr(importlib.import_module(module), name)


def prepare(
    benchmark: str,
    source: str | Path | None,
    prepared_dir: str | Path = DEFAULT_PREPARED_DIR,
    *,
    frame_size: int | None = None,
    allow_missing: bool = False,
    repeat_last_frame: bool = False,
    progress: bool = True,
) -> Path:
    """Prepares a benchmark and returns the prepared data set's folder.

    Returns at once where it is prepared already from the same source with the same options. Reads
    every file once; all that is wrong is told in one error. Interrupted, the next call goes on.

    Args:
      benchmark: s4, ms3, avss, builtin, builtin_tiny.
      source: the folder as downloaded; None for the built-in ones, which are generated.
      prepared_dir: where prepared data sets go, each in a folder of its own.
      frame_size: store frames as square PNGs of this side, for quick decoding. Label maps keep
        their size. None stores the files' own bytes.
      allow_missing: prepare what is whole of a partial copy, and tell what was left out. Label
        pixels of unknown colours become background, as in the public code.
      repeat_last_frame: clips that start at second 6 and have four frames repeat the last.
      progress: show a progress bar.

    Raises:
      UserError: unusable source, options or target; see `prepare_dataset`.
    """
    options = Options(frame_size, allow_missing, repeat_last_frame)
    builder = _builder(benchmark, source, prepared_dir, options, progress)
    return builder if isinstance(builder, Path) else prepare_dataset(builder)


def find(
    benchmark: str,
    source: str | Path | None,
    prepared_dir: str | Path = DEFAULT_PREPARED_DIR,
    *,
    frame_size: int | None = None,
    allow_missing: bool = False,
) -> tuple[Path, DatasetFacts]:
    """Return what `prepare` would return, and its facts; prepares nothing.

    Where the folder does not exist the facts are those of the source's tables, and its files are
    not looked at.

    Raises:
      UserError: unusable source or options, or another data set is there.
    """
    options = Options(frame_size, allow_missing)
    builder = _builder(benchmark, source, prepared_dir, options, progress=False)
    if isinstance(builder, Path):
        return builder, read_dataset_facts(builder)
    target = Path(builder.data_dir)
    if not target.exists():
        return target, planned_facts(builder)
    facts = read_dataset_facts(target)
    check_same(builder, facts, target)
    return target, facts


def _builder(
    benchmark: str,
    source: str | Path | None,
    prepared_dir: str | Path,
    options: Options,
    progress: bool,
) -> ClipBuilder | Path:
    """A benchmark's builder; or the prepared folder, where the source was removed since."""
    cls = builder_class(benchmark)
    if benchmark in GENERATED:
        return cls(options=options, data_dir=prepared_dir, progress=progress)
    if source is None or not str(source):
        raise UserError(f"source: expected the folder of benchmark {benchmark} as downloaded.")
    if (target := _prepared_without_source(cls, Path(source), prepared_dir, options)) is not None:
        return target
    return cls(source=source, options=options, data_dir=prepared_dir, progress=progress)


def _prepared_without_source(cls, source: Path, prepared_dir, options: Options) -> Path | None:
    """The data set of a source folder that was removed after preparing it, to save its space."""
    if source.expanduser().exists():
        return None
    target = cls.target_for(prepared_dir, options)
    if not target.exists():
        return None
    facts = read_dataset_facts(target)
    made_from = Path(str(facts.identity.get("source", "")))
    wanted = source.expanduser().resolve()
    if wanted != made_from and wanted not in made_from.parents:
        return None
    check_options(options, facts, target)
    return target


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    parser = argparse.ArgumentParser(
        prog="python -m tfds_builders.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--benchmark", required=True, choices=list(BENCHMARKS))
    parser.add_argument("--source", type=local_path, help="the folder as downloaded")
    parser.add_argument(
        "--prepared_dir", type=local_path, default=DEFAULT_PREPARED_DIR, help="(%(default)s)"
    )
    parser.add_argument("--frame_size", type=int, help="store frames as N x N pixels")
    parser.add_argument("--allow_missing", action="store_true", help="prepare what is whole")
    parser.add_argument(
        "--repeat_last_frame", action="store_true", help="of clips that start at second 6"
    )
    try:
        folder = prepare(**vars(parser.parse_args(arguments)))
        facts = read_dataset_facts(folder)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "stopped: finished clips are kept; run the same command again to go on.",
            file=sys.stderr,
        )
        return 130
    counts = ", ".join(f"{split} {count}" for split, count in facts.splits.items())
    left_out = len({entry["clip"] for entry in facts.left_out})
    partial = f" ({left_out} clips left out)" if left_out else ""
    print(f"{facts.benchmark}: {counts} clips{partial} in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
