"""Which keys of a config name folders and files, and how a user's words for them are read.

All are local, but for folders of runs and of their weights, which may lie on gs://bucket/folder.
"""

import functools
import importlib.util
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

import fsspec
from absl import flags
from etils import epath
from ml_collections import ConfigDict

from ssp_jax.config_ranges import flat
from ssp_jax.errors import UserError
from tfds_builders.places import expanded, is_address

# init_from names several with commas between, among them stages; texts.tokeniser may be a name on
# the Hugging Face hub. Neither begins as an address or with ~.
_RUNS = re.compile(r"(\w+\.)?(init_from|prompt\.stage1)")
_LOCAL = re.compile(r"data_dir|prepared_dir|(flow|clip)\.weights|texts\.(file|tokeniser)")
_BUCKET = re.compile(r"(gs://[\w.-]+)/.*[^/].*")
# Other machines and Orbax write to the same folder, so that a listing is of no use a second later.
fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # its errors come as exceptions, too


def run_word(word: str) -> str:
    """Return the address of a folder on gs:// as it stands, or a local path, see `expanded`.

    Raises:
      UserError: see `expanded`; an address of another kind, or a bucket that cannot be reached.
    """
    if not is_address(word):
        return expanded(word)
    found = _BUCKET.fullmatch(word)
    if not found:
        raise UserError(
            f"{word}: an address, of which gs://BUCKET/FOLDER alone works here, beside folders of "
            "this machine or of a disk mounted on it"
        )
    if problem := _problem(found[1]):
        raise UserError(f"{word}: {problem}")
    return word


def run_path(word: str | os.PathLike) -> Path:
    """Return the path of a run's folder or weights, an `epath.Path` on gs://; an argparse `type`.

    What is a path already stays as it is.

    Raises:
      UserError: see `run_word`.
    """
    if isinstance(word, epath.Path) or (isinstance(word, Path) and not is_address(str(word))):
        return word
    word = run_word(os.fspath(word))
    return epath.Path(word) if is_address(word) else Path(word)


@functools.cache
def _problem(bucket: str) -> str:
    if importlib.util.find_spec("gcsfs") is None:
        return 'the package gcsfs is not installed. Do: pip install "ssp-jax[gcs]"'
    try:
        there = epath.Path(bucket).exists()
    except Exception as error:  # whatever the client raises, of the network or of credentials
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        return (
            f"cannot be reached ({reason[0][:200]}). Is the network there, and are there "
            "credentials (gcloud auth application-default login)?"
        )
    return "" if there else f"no bucket {bucket}, or these credentials do not see it"


class _PathParser(flags.ArgumentParser):
    """Of flags that name a file or folder, as text."""

    syntactic_help = "a file or folder"

    def __init__(self, read: Callable[[str], str]):
        self._read = read

    def parse(self, argument: str) -> str:
        try:
            return self._read(argument)
        except UserError as error:  # absl puts flag and value before the message of these
            raise ValueError(str(error).removeprefix(f"{argument}: ")) from error


def define_path(
    name: str,
    default: str | None,
    about: str,
    read: Callable[[str], str] = expanded,
    **options,
) -> flags.FlagHolder:
    """Define an absl flag that names a file or folder, as `read` gives it; options of
    `flags.DEFINE`."""
    return flags.DEFINE(_PathParser(read), name, default, about, **options)


def run_words(words: str) -> str:
    """Return words with commas between, each as `run_word` gives it; an argparse `type`.

    Raises:
      UserError: see `run_word`.
    """
    return re.sub(r"[^,\s]([^,]*[^,\s])?", lambda word: run_word(word[0]), words)


def read_places(config: ConfigDict) -> None:
    """Replace what the config names as folders and files by their paths.

    Raises:
      UserError: some cannot be used, see `run_word` and `expanded`; names the keys of all.
    """
    paths, problems = {}, []
    for key, value in flat(config.to_dict()).items():
        read = run_words if _RUNS.fullmatch(key) else expanded
        if not isinstance(value, str) or not (read is run_words or _LOCAL.fullmatch(key)):
            continue
        try:
            paths[key] = read(value)
        except UserError as error:
            problems.append(f"config.{key}={error}")
    if problems:
        raise UserError("\n".join(problems))
    config.update_from_flattened_dict(paths)
