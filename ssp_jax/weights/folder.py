"""Weight folders: parameters under this project's names, with a note of where they come from.

weights.safetensors  float32; a parameter's path in `TrainedNetwork`, 'network/encoder/...'.
weights.json         what they are: see the keys that `importing.py` writes; and checksums of all.
unused.safetensors   perhaps: arrays of the source, under its names, that the model has no place
                     for but an export must give back.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401, gives numpy a bfloat16
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save_file

from ssp_jax.errors import UserError
from ssp_jax.files import is_remote, set_usual_mode, whole_folder
from ssp_jax.json_files import read_sealed, write_sealed
from ssp_jax.places import run_path
from tfds_builders.facts import sha256_of

Shapes = Callable[[Mapping[str, Any]], dict[str, tuple[int, ...]]]  # arguments -> by path
WEIGHTS, FACTS, UNUSED = "weights.safetensors", "weights.json", "unused.safetensors"
_SUMS = "sums"  # in weights.json: file name -> SHA-256


def is_weight_folder(folder: str | os.PathLike) -> bool:
    """Tell whether `folder` is (meant as) a weight folder, not a run's."""
    return any((run_path(folder) / name).is_file() for name in (WEIGHTS, FACTS))


def check_new(path: str | os.PathLike) -> Path:
    """`path`, where nothing may be yet.

    Raises:
      UserError: it exists, or its parent is not a folder that can hold it.
    """
    path = Path(path)
    if path.exists() or path.is_symlink():
        raise UserError(f"{path}: exists already. Name a new path, or remove it first")
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise UserError(f"{path}: {parent} is a file, expected a folder")
    return path


def save_weights(
    folder: str | os.PathLike,
    arrays: Mapping[str, np.ndarray],
    facts: Mapping[str, Any],
    unused: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write a weight folder, whole or not at all.

    Args:
      folder: a new folder; its parents are made.
      arrays: parameters by path name; stored as float32.
      facts: anything json can hold.
      unused: source arrays to keep for an export; stored as they are.

    Raises:
      UserError: the folder exists or cannot be written.
    """
    folder = check_new(folder)
    try:
        with whole_folder(folder) as temporary:
            save_file(_dense(arrays, np.float32), temporary / WEIGHTS)
            if unused:
                save_file(_dense(unused), temporary / UNUSED)
            sums = {file.name: sha256_of(file) for file in temporary.iterdir()}
            write_sealed(temporary / FACTS, {**facts, _SUMS: sums})
            for path in temporary.iterdir():
                set_usual_mode(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot be written ({error})") from error


def load_weights(folder: str | os.PathLike) -> dict[str, np.ndarray]:
    """Parameters of a weight folder by path name, float32.

    Raises:
      UserError: not a weight folder, or one that is damaged.
    """
    arrays = read_safetensors(_file(folder, WEIGHTS))
    wrong = [f"{name} ({value.dtype})" for name, value in arrays.items() if value.dtype != "f4"]
    if wrong:
        raise UserError(
            f"{run_path(folder) / WEIGHTS}: expected float32 arrays, found {', '.join(wrong[:5])}. "
            "Import the weights again: python -m ssp_jax.weights import --help"
        )
    _check_sum(folder, WEIGHTS)
    return arrays


def weight_shapes(folder: str | os.PathLike) -> dict[str, tuple[int, ...]]:
    """Shapes of a weight folder's parameters by path name; reads the head of the file alone.

    Raises:
      UserError: not a weight folder, or one that is truncated.
    """
    path = _file(folder, WEIGHTS)
    if is_remote(path):
        return {name: array.shape for name, array in read_safetensors(path).items()}
    with _opened(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def load_facts(folder: str | os.PathLike) -> dict[str, Any]:
    """Return what weights.json says.

    Raises:
      UserError: not a weight folder, or weights.json is damaged.
    """
    facts = read_sealed(_file(folder, FACTS), "Import the weights again")
    return {key: value for key, value in facts.items() if key != _SUMS}


def load_arguments(
    folder: str | os.PathLike, source: str, what: str, shapes: Shapes
) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Arguments of the model whose weights the folder holds, and its parameters' shapes by path.

    Args:
      source: the kind of import. what: it is, in messages. shapes: of its arguments.

    Raises:
      UserError: not a weight folder, or of another kind.
    """
    facts = load_facts(folder)
    if facts.get("source") != source:
        raise UserError(
            f"{folder}: weights imported as {facts.get('source')}, expected those of {what}. "
            f"Make the folder with python -m ssp_jax.weights import --source={source}"
        )
    try:
        return facts["model"], shapes(facts["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder}: weights.json tells no model ({error}). Import the weights again"
        ) from error


def load_model(
    folder: str | os.PathLike, source: str, what: str, shapes: Shapes, root: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Arguments of a model and its parameters by path, float32; see `load_arguments`.

    Args:
      root: beginning of the paths in the folder; taken off.

    Raises:
      UserError: as `load_arguments` and `load_weights`, or the arrays are not that model's.
    """
    arguments, expected = load_arguments(folder, source, what, shapes)
    weights = load_weights(folder)
    expected = {root + path: shape for path, shape in expected.items()}
    found = {path: value.shape for path, value in weights.items()}
    differing = sorted(dict(expected.items() ^ found.items()))
    if differing:
        raise UserError(
            f"{folder}: {len(differing)} arrays are not as weights.json says, for example "
            f"{differing[0]}. Import the weights again"
        )
    return arguments, {path.removeprefix(root): value for path, value in weights.items()}


def load_unused(folder: str | os.PathLike) -> dict[str, np.ndarray]:
    """Kept arrays of the source under its names; empty if there are none."""
    path = run_path(folder) / UNUSED
    _check_sum(folder, UNUSED)
    return read_safetensors(path) if path.exists() else {}


def _check_sum(folder: str | os.PathLike, name: str) -> None:
    """safetensors files have no checksum of their own, so weights.json keeps it."""
    if not (run_path(folder) / FACTS).is_file():
        return  # the arrays alone, which the caller may do with
    sums = read_sealed(run_path(folder) / FACTS, "Import the weights again").get(_SUMS)
    expected = sums.get(name) if isinstance(sums, dict) else None  # older folders have none
    if expected is None:
        return
    path = _file(folder, name)
    if sha256_of(path) != expected:
        raise UserError(
            f"{path}: not as it was written, its SHA-256 differs. Import the weights again"
        )


def read_safetensors(
    path: Path,
    choose: Callable[[list[str]], Mapping[str, str]] = lambda names: {n: n for n in names},
) -> dict[str, np.ndarray]:
    """All chosen arrays of a file; half precisions (no rounding in that) as float32.

    Args:
      choose: from the names in the file, those to read and the names to give them.

    Raises:
      UserError: missing, truncated, not a safetensors file, or with numbers of 8 bits or less.
    """
    with _opened(path) as file:
        chosen = choose(list(file.keys()))
        for name in chosen:
            kind = "" if is_remote(path) else file.get_slice(name).get_dtype()
            if re.fullmatch(r"F[468](_.*)?", kind):
                raise UserError(f"{path}: {name} {quantised(kind)}")
        return {new: widened(file.get_tensor(name)) for name, new in chosen.items()}


def quantised(kind: str) -> str:
    """Say that an array's numbers are of a quantised kind, and what to take instead."""
    return (
        f"holds quantised numbers ({kind}), which mean nothing without the scales of the code that "
        "made them. Use the same weights in float32, float16 or bfloat16"
    )


class _Loaded(dict):
    """Arrays of a file that cannot be mapped, as `safe_open` gives those of one that can."""

    get_tensor = dict.__getitem__


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        if is_remote(path):
            yield _Loaded(load(path.read_bytes()))
            return
        with safe_open(path, framework="numpy") as file:
            yield file
    except (OSError, SafetensorError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: cannot be read as safetensors ({error}). It may be truncated: get it again"
        ) from error


def widened(value: np.ndarray) -> np.ndarray:
    """Half precisions as float32, everything else as it is."""
    return value.astype(np.float32) if value.dtype.name in ("float16", "bfloat16") else value


def _file(folder: str | os.PathLike, name: str) -> Path:
    path = run_path(folder) / name
    if not path.is_file():
        raise UserError(
            f"{path}: not there. Expected a weight folder with {WEIGHTS} and {FACTS}, as "
            "`python -m ssp_jax.weights import` writes it"
        )
    return path


def _dense(arrays: Mapping[str, np.ndarray], dtype=None) -> dict[str, np.ndarray]:
    # Not ascontiguousarray, which makes vectors of scalars.
    return {name: np.asarray(value, dtype=dtype, order="C") for name, value in arrays.items()}
