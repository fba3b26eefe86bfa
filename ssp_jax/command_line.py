"""What the commands with a config share: their log, and mistakes in their flags as one line."""

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from ssp_jax import preemption
from ssp_jax.devices import device_line
from ssp_jax.errors import UserError
from ssp_jax.files import absolute
from ssp_jax.init_from import starting_weights
from ssp_jax.other_logs import hush_others
from ssp_jax.overrides import override, split_overrides
from ssp_jax.places import define_path, read_places, run_path, run_word
from ssp_jax.processes import is_first, start
from ssp_jax.run_folder import stage_names

# An empty `sys_argv`: overrides are not left to ml_collections, see `ssp_jax.overrides`.
_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file.", sys_argv=[])
_WORKDIR = define_path(
    "workdir", None, "Folder, may be on gs://; default runs/[COMMAND-]<config name>.", run_word
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "HOST:PORT of process 0 of several. All three are needed only where JAX does not find out by "
    "itself; see docs/scaling.md.",
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes",
    None,
    "Of the run. 1 alone: of this process only, whatever SLURM or another cluster says.",
    lower_bound=1,
)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Of this one, from 0 on.", lower_bound=0)
# Where the folder `configs` lies: in the package that a wheel installs, beside it in a checkout.
_SHIPPED = (Path(__file__).parent, Path(__file__).parent.parent)
_LOGGERS = ("ssp_jax", "tfds_builders")
_LOG = logging.getLogger(__name__)
# ml_collections and absl raise plain errors, some with a traceback inside the message, for misspelt
# flags and for what a config file itself refuses.
_MISTAKES = (flags.Error, AttributeError, TypeError, KeyError, ValueError, UserError)

_MISSING = "--config is missing, for example --config=configs/demo.py"
_NO_WRITING = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EROFS, errno.EACCES, errno.EPERM),
)
_GO_ON = "Once there is room or permission, the same command goes on from the last checkpoint"


def config_and_workdir(prefix: str = "") -> tuple[ConfigDict, Path]:
    """Return what --config and --workdir say; without the latter runs/<prefix><config's name>.

    Raises:
      UserError: see `read_places`.
    """
    if _CONFIG.value is None:
        raise app.UsageError(_MISSING)
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    name = name.split(":")[0].removesuffix(".py")
    read_places(_CONFIG.value)
    return _CONFIG.value, run_path(_WORKDIR.value or f"runs/{prefix}{name}")


def tell_start(config: ConfigDict, workdir: Path, what: str = "train") -> None:
    """Log what computes, what it does, and where, in three lines.

    Args:
      what: is done with the config's stages.

    Raises:
      UserError: the config asks for an unknown stage, or for none.
    """
    file = config_flags.get_config_filename(flags.FLAGS["config"])
    stages = ", then ".join(
        f"{name} from {starting_weights(config, name) or 'scratch'}" for name in stage_names(config)
    )
    # Of a run, and of the runs of an ablation.
    patterns = ("config.json", "*/config.json", "*/*/config.json")
    there = any(next(workdir.glob(pattern), None) for pattern in patterns)
    _LOG.info("%s", device_line())
    _LOG.info("%s: %s %s", file, what, stages)
    _LOG.info("in %s, %s", absolute(workdir), "going on with what is there" if there else "anew")


def find_config(path: str) -> str:
    """FILE.py or FILE.py:ARGUMENT as it is, or where it lies with the package: configs/demo.py.

    Raises:
      UserError: no such file.
    """
    file, colon, argument = os.path.expanduser(path).partition(":")
    for folder in (Path(), *_SHIPPED):
        if (folder / file).is_file():
            return f"{folder / file}{colon}{argument}"
    own = sorted({found.name for folder in _SHIPPED for found in folder.glob("configs/*.py")})
    raise UserError(
        f"--config={path}: no such file. The project's own are {', '.join(own)}, named as "
        "configs/demo.py from any folder"
    )


def show_own_log() -> None:
    """Log this project's lines to the terminal; of other packages' see `hush_others`."""
    hush_others()
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)


def run_command(main: Callable[[list[str]], None], doc: str) -> None:
    """Run a command's `main`; `doc` is what --help prints."""
    # absl takes it from __main__, which of an installed command is not the command's module.
    sys.modules["__main__"].__doc__ = doc
    app.run(main, flags_parser=parse_flags)


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """A `UserError` or a full disk becomes one line and exit status 1, a signal one line and its
    own status, see `preemption`."""
    preemption.listen()
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except preemption.Preempted as stop:
        preemption.leave(str(stop))
    except OSError as error:
        if preemption.came():
            preemption.leave("")
        if error.errno not in _NO_WRITING:
            raise
        where = f"{error.filename}: cannot be written" if error.filename else "cannot write"
        print(f"error: {where} ({error.strerror}). {_GO_ON}", file=sys.stderr)
        sys.exit(1)
    except Exception:
        if not preemption.came():  # which ends worker processes, too
            raise
        preemption.leave("")


def start_processes(*given: str | int | None) -> None:
    """Join the run's other processes, if there are any; of those that follow, only warnings show.

    Args:
      given: the arguments of `processes.start`; those of the absl flags, if none are given.

    Raises:
      UserError: see `processes.start`.
    """
    start(*(given or (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)))
    preemption.listen()
    if not is_first():
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)


def parse_flags(argv: list[str]) -> list[str]:
    """Return the words that are no flags; a mistake becomes one line and exit status 1."""
    try:
        words, changes = split_overrides(flags.FLAGS.read_flags_from_files(argv, force_gnu=False))
        rest = flags.FLAGS(_with_config_found(words))
        if changes and _CONFIG.value is None:
            raise UserError(_MISSING)
        override(_CONFIG.value, changes)
        return rest
    except _MISTAKES as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        sys.exit(1)


def _with_config_found(argv: Sequence[str]) -> list[str]:
    argv = list(argv)
    for number, word in enumerate(argv):
        name, equals, path = word.partition("=")
        if name not in ("--config", "-config"):
            continue
        if equals:
            argv[number] = f"{name}={find_config(path)}"
        elif argv[number + 1 :]:
            argv[number + 1] = find_config(argv[number + 1])
    return argv


def read_config(path: str, changes: Sequence[str] = ()) -> ConfigDict:
    """The config of a file, as --config=path and `changes` ('--config.seed=1') would give it.

    Raises:
      UserError: no such file, a change that it does not take, or see `read_places`.
    """
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", None, "", values, sys_argv=[])
    try:
        values(["", f"--config={find_config(path)}"])
    except _MISTAKES as error:
        raise UserError(_one_line(error)) from error
    override(holder.value, changes)
    read_places(holder.value)
    return holder.value


def _one_line(error: Exception) -> str:
    # KeyError quotes its message; the last line is what follows a traceback.
    text = str(error.args[0] if error.args else error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = lines[-1] if "Traceback" in text else " ".join(lines)
    return line.removeprefix("ssp_jax.errors.UserError: ")
