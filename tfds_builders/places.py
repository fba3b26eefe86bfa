"""Folders and files as a user names them, in an option or a key of a config."""

import os
import re
from pathlib import Path

from ssp_jax.errors import UserError

# Also 'gs:/b', which pathlib makes of 'gs://b', and 'dbfs:/b'; './a:/b' is a folder.
_ADDRESS = re.compile(r"[A-Za-z][\w+.:-]*:/")


def is_address(word: str) -> bool:
    """Tell whether a word names something by its scheme, as gs://bucket/folder does."""
    return bool(_ADDRESS.match(word))


def expanded(word: str) -> str:
    """Return a local path with ~ and ~user replaced by the home folder, else as it stands.

    Raises:
      UserError: an address, as gs://bucket/folder; no such user's home.
    """
    if is_address(word):
        raise UserError(
            f"{word}: an address, and this has to be a file or folder of this machine or of a disk "
            "mounted on it. Copy it here, or mount it, and name its path"
        )
    path = os.path.expanduser(word)
    if path.startswith("~"):
        raise UserError(
            f"{word}: there is no user of this name, or no home folder. Name the folder in full, "
            f"or as ./{word} if it is called so"
        )
    return path


def local_path(word: str) -> Path:
    """Return the local path that a user means, see `expanded`; an argparse `type`."""
    return Path(expanded(word))
