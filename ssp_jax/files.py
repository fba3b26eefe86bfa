"""Files and folders that are whole or not there."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ssp_jax.errors import UserError


def check_writable(folder: Path, what: str) -> None:
    """Look whether a folder, which need not exist yet, can be written; writes nothing.

    Args:
      what: names it in the message, as '--workdir=DIR'.

    Raises:
      UserError: it cannot be made, or may not be written.
    """
    there = Path(os.path.abspath(folder))
    while not there.exists() and not there.is_symlink():
        there = there.parent
    if not there.is_dir():
        raise UserError(f"{what}: cannot be written ({there} is no folder)")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{what}: cannot be written (no permission in {there})")


def write_whole(path: Path, text: str) -> None:
    """Write by way of a file beside it, so that no reader and no crash finds half of it."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    temporary.replace(path)


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder beside the new `folder`, to write into; it gets that name when the block ends well,
    and is removed when it does not. Parents are made."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield temporary
        set_usual_mode(temporary)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # gone if it was renamed


def set_usual_mode(path: Path) -> None:
    """The permissions of what is newly made: safetensors and tempfile make private things."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
