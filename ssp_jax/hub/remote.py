"""Where published runs go and come from: folders, and repositories of the Hugging Face hub."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from ssp_jax.checkpoint_files import first_line
from ssp_jax.errors import UserError
from tfds_builders.places import expanded

_HUB = "hf://"
_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
Source = tuple[dict[str, int], Callable[[str, Path], None]]


def folder_or_repository(word: str) -> str:
    """Return what stands for 'hf://...' or a local folder, see `expanded`; an argparse `type`."""
    return word if word.startswith(_HUB) else expanded(word)


def repository(word: str) -> tuple[str, str | None] | None:
    """('user/name', revision) of 'hf://user/name[@revision]'; None for a folder.

    Raises:
      UserError: hf:// with something else behind.
    """
    if not word.startswith(_HUB):
        return None
    if not _NAME.fullmatch(word.removeprefix(_HUB)):
        raise UserError(f"{word}: expected {_HUB}user/name, perhaps with @REVISION")
    name, _, revision = word.removeprefix(_HUB).partition("@")
    return name, revision or None


def upload(folder: Path, name: str, *, public: bool, update: bool) -> str:
    """Put a folder's files into a repository of the hub, all in one commit; its address.

    Raises:
      UserError: it is there already and not to be updated, or the hub refuses or is not reached.
    """
    api = HfApi()
    if not update and _call(name, api.repo_exists, name):
        raise UserError(f"{_HUB}{name}: exists already. Name another, or add --update")
    _call(name, api.create_repo, name, private=not public, exist_ok=update)
    message = "python -m ssp_jax.hub push"
    _call(name, api.upload_folder, repo_id=name, folder_path=str(folder), commit_message=message)
    return f"{_HUB}{name}"


def open_source(word: str) -> Source:
    """Sizes of the files of a folder or repository, and what brings one of them to a path.

    Raises:
      UserError: it is not there, or the hub is not reached; a link that leads out of the folder.
    """
    found = repository(word)
    return _open_folder(Path(word)) if found is None else _open_repository(*found)


def _open_folder(folder: Path) -> Source:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; a repository is named as {_HUB}user/name")
    sizes, root = {}, folder.resolve()
    for path in folder.rglob("*"):
        if root not in path.resolve().parents:
            raise UserError(f"{path}: leads out of the folder; copy it with its files (cp -rL)")
        if path.is_file():
            sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
    return sizes, lambda name, target: shutil.copyfile(folder / name, target)


def _open_repository(name: str, revision: str | None) -> Source:
    api = HfApi()
    # One commit for all files, whatever is pushed meanwhile.
    commit = _call(name, api.model_info, name, revision=revision).sha
    entries = _call(name, lambda: list(api.list_repo_tree(name, recursive=True, revision=commit)))
    sizes = {
        entry.path: entry.size for entry in entries if getattr(entry, "size", None) is not None
    }

    def fetch(file: str, target: Path) -> None:
        found = _call(name, api.hf_hub_download, name, file, revision=commit)
        shutil.copyfile(found, target)

    return sizes, fetch


def _call(name: str, call: Callable, *arguments: Any, **options: Any) -> Any:
    try:
        return call(*arguments, **options)
    # What the library and the HTTP client of its version raise have no common kind.
    except Exception as error:
        raise UserError(
            f"{_HUB}{name}: {first_line(error)}. Is the name right, the network there, and are you "
            "logged in (hf auth login)?"
        ) from error
