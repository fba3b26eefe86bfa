"""Files and folders that are whole or not there, also on gs:// (there as `epath.Path`)."""

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ssp_jax.errors import UserError
from tfds_builders.places import is_address


def is_remote(path: Path) -> bool:
    """Tell whether a path is on gs://, where objects appear whole and nothing is renamed."""
    return is_address(os.fspath(path))


def absolute(path: Path) -> Path:
    """Return the path from the root, links resolved; epath's own takes gs:// for a folder here."""
    return path if is_remote(path) else path.resolve()


def size_of(path: Path) -> int:
    """Return the bytes of a plain file.

    Raises:
      OSError: it is not there. ValueError: a folder, a pipe or the like.
    """
    status = path.stat()
    remote = is_remote(path)
    if status.is_directory if remote else not stat.S_ISREG(status.st_mode):
        raise ValueError("not a file")
    return status.length if remote else status.st_size


def write_whole(path: Path, content: str | bytes) -> None:
    """Write by way of a file beside it, so that no reader and no crash finds half of it."""
    data = content if isinstance(content, bytes) else content.encode()
    if is_remote(path):
        path.write_bytes(data)
        return
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def remove_folder(folder: Path) -> None:
    """Remove a folder with all in it, as far as it is there and may be removed."""
    if is_remote(folder):
        folder.rmtree(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def move_folder(source: Path, target: Path) -> None:
    """Rename a folder to `target`, in place of what is there; its parent is made.

    On gs:// its files are copied one by one, and then removed.
    """
    remove_folder(target)
    if not is_remote(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(source, target)
        return
    copy_below(source, target)
    remove_folder(source)


def copy_below(source: Path, target: Path) -> None:
    """Write all files below a folder to the same places below `target`, which may be on gs://."""
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        copy = copy_below if path.is_dir() else copy_file
        copy(path, target / path.name)


def copy_file(source: Path, target: Path) -> None:
    """Write what `source` holds to `target`; either may be on gs://."""
    target.write_bytes(source.read_bytes())


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


def check_writable(folder: Path, what: str) -> None:
    """Look whether a folder, which need not exist yet, can be written; writes nothing.

    Args:
      what: names it in the message, as '--workdir=DIR'.

    Raises:
      UserError: it cannot be made, or may not be written.
    """
    if is_remote(folder):  # `places` has looked for its bucket
        return
    there = Path(os.path.abspath(folder))
    while not there.exists() and not there.is_symlink():
        there = there.parent
    if not there.is_dir():
        raise UserError(f"{what}: cannot be written ({there} is no folder)")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{what}: cannot be written (no permission in {there})")
