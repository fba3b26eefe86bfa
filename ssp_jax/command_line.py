"""What the commands with a config share: their log, and mistakes in their flags as one line."""

import logging
import sys
from pathlib import Path

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from ssp_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder; default runs/[COMMAND-]<config name>.")


def config_and_workdir(prefix: str = "") -> tuple[ConfigDict, Path]:
    """What --config and --workdir say; without the latter runs/<prefix><name of the config>."""
    if _CONFIG.value is None:
        raise app.UsageError("--config is missing, for example --config=configs/demo.py")
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    name = name.split(":")[0].removesuffix(".py")
    return _CONFIG.value, Path(_WORKDIR.value or f"runs/{prefix}{name}")


def show_own_log() -> None:
    """Log lines of this project, and of no other, to the terminal."""
    # Only this project's lines: orbax, TFDS and absl say dozens a minute that nobody asked for.
    absl_logging.set_verbosity(absl_logging.ERROR)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    for name in ("ssp_jax", "tfds_builders"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)


def parse_flags(argv: list[str]) -> list[str]:
    """What is left of the command line; a mistake in it becomes one line and exit status 1."""
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
