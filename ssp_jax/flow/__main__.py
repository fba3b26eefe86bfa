"""Adds optical flow to a prepared data set, once, for flow masks (method 4.1).

    python -m ssp_jax.flow --prepared=DIR [--split=train ...] [--estimator=dis] [--size=112]
    python -m ssp_jax.flow --prepared=DIR --estimator=perceiver --weights=DIR

DIR is the version folder that `python -m tfds_builders.prepare` names at its end. The flow is kept
in it. The command may be stopped at any time; run again, it goes on where it stopped.
"""

import logging
import sys
import time
from collections.abc import Sequence

from ssp_jax.data.sources import ClipSource, splits_of
from ssp_jax.errors import UserError
from ssp_jax.flow.estimators import NAMES, make_estimator
from ssp_jax.flow.store import add_flow, open_flow
from ssp_jax.plain_commands import command_parser
from tfds_builders.places import local_path


def run(arguments: Sequence[str] | None = None) -> None:
    """The command without its exit status.

    Raises:
      UserError: see `make_estimator`, `add_flow`; no such data set or split.
    """
    parser = command_parser("ssp_jax.flow", __doc__)
    parser.add_argument(
        "--prepared", required=True, type=local_path, metavar="DIR", help="prepared data set"
    )
    parser.add_argument("--split", action="append", help="may be repeated; default: all splits")
    parser.add_argument("--estimator", default="dis", choices=NAMES, help="(%(default)s)")
    parser.add_argument(
        "--weights", type=local_path, metavar="DIR", help="weight folder, for perceiver"
    )
    parser.add_argument(
        "--size", type=int, default=112, help="longer side of the stored flow (%(default)s)"
    )
    flags = parser.parse_args(arguments)
    estimator = make_estimator(flags.estimator, flags.weights)
    splits = flags.split or splits_of(flags.prepared)
    source = ClipSource([(flags.prepared, split) for split in splits])
    start = time.perf_counter()
    add_flow(source, estimator, size=flags.size)
    seconds = time.perf_counter() - start
    folders = [part.folder for part in open_flow(source, estimator.name).parts]
    stored = sum(file.stat().st_size for folder in folders for file in folder.iterdir())
    kilobytes = stored / max(len(source), 1) / 1e3
    print(
        f"{folders[0].parent}: flow of {len(source)} clips, {kilobytes:.0f} KB a clip, "
        f"{seconds:.0f} s"
    )


def main() -> int:
    """The command; returns its exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "stopped: finished clips are kept; run the same command again to go on.",
            file=sys.stderr,
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
