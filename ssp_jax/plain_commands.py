"""What the commands without absl flags share: their parser, and how they end."""

import argparse
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from ssp_jax.errors import UserError
from ssp_jax.other_logs import hush_others


def command_parser(module: str, about: str | None, examples: str = "") -> argparse.ArgumentParser:
    """Make the parser of `python -m <module>`; texts are shown as written, no flag is cut short."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=about,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def run_and_exit(run: Callable[[], Any], *, when_stopped: str = "") -> NoReturn:
    """End the process with the status that `run` returns, 0 if that is no number.

    A `UserError` becomes one message and status 1; Ctrl-C, where there is something to say
    `when_stopped`, that and 130. Of what other packages log see `hush_others`.
    """
    hush_others()
    try:
        status = run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        if not when_stopped:
            raise
        print(f"stopped: {when_stopped}", file=sys.stderr)
        status = 130
    sys.exit(status if isinstance(status, int) else 0)
