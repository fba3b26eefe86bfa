"""Reading other projects' weight files, as data only: nothing in them is ever run."""

import hashlib
import os
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import serialization, traverse_util

from ssp_jax.errors import UserError
from ssp_jax.json_files import read_object
from ssp_jax.weights.folder import quantised, read_safetensors, widened
from ssp_jax.weights.formats import BOTH_SUFFIXES, FLAX, SAFETENSORS, SUFFIXES, format_of, not_there
from ssp_jax.weights.names import unwrapped

# From the names in a file: those to read, and the names to give them.
Choose = Callable[[list[str]], dict[str, str]]

# Names in a folder as the hub has it, the best first.
_HUB_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "flax_model.msgpack",
)
# Where training code keeps a model's state beside the rest; averages of it are taken only where
# there is nothing else.
_WRAPPERS = (
    *("model", "state_dict", "model_state_dict", "model_state", "module", "net", "network"),
    *("weights", "params"),
)
_AVERAGES = ("model_ema", "ema", "ema_model", "ema_state_dict", "state_dict_ema", "params_ema")
_NO_TORCH = (
    "reading and writing files of PyTorch (.pth, .pt, .ckpt, .bin) needs PyTorch: pip install "
    "torch==2.13.0 (or this project's parity extra), or use a .safetensors file"
)


class Source:
    """Arrays of a weight file, or of several with an index.

    Attributes:
      arrays: by name. files: those that were read. config: config.json beside them, or None.
      skipped: the beginnings of names that were left out. notes: what was decided in reading them,
      a line each.
    """

    def __init__(self, path: str | Path, skip: Iterable[str] = ()):
        """Read a file, or the weights of a folder, but for names that begin with one of `skip`.

        Raises:
          UserError: nothing there, not a weight file, damaged, or PyTorch is needed and missing.
        """
        path, self._skip = Path(path), tuple(skip)
        self.skipped: set[str] = set()
        self.notes: list[str] = []
        if not path.exists():
            raise UserError(not_there(path))
        weights = _weights_in(path) if path.is_dir() else path
        self.files = [weights]
        if weights.name.endswith(".index.json"):
            self.arrays = self._shards(weights)
        else:
            self.arrays = read_arrays(weights, self._choose, self.notes)
        if not (self.arrays or self.skipped):
            raise UserError(f"{weights}: holds no arrays")
        config = weights.parent / "config.json"
        self.config_path = config if config.is_file() else None
        self.config = read_object(config) if self.config_path else None

    def _wanted(self, name: str) -> bool:
        beginnings = {beginning for beginning in self._skip if name.startswith(beginning)}
        self.skipped |= beginnings
        return not beginnings

    def _choose(self, names: list[str]) -> dict[str, str]:
        new, lines = unwrapped(names)
        self.notes += lines
        return {old: name for old, name in new.items() if self._wanted(name)}

    def _shards(self, index: Path) -> dict[str, np.ndarray]:
        shards = read_object(index).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(n, str) for n in shards.values()):
            raise UserError(f"{index}: expected an object weight_map, array name to file name")
        # A shard without wanted names need not even be there.
        chosen = self._choose(list(shards))
        left_out = shards.keys() - chosen.keys()

        def choose(names: list[str]) -> dict[str, str]:
            return {n: chosen.get(n, n) for n in names if n not in left_out and self._wanted(n)}

        names, arrays = set(chosen.values()), {}
        for shard in sorted({shards[name] for name in chosen}):
            if Path(shard).name != shard:
                raise UserError(f"{index}: names a file outside of its folder, {shard!r}")
            arrays |= read_arrays(index.parent / shard, choose, self.notes)
            self.files.append(index.parent / shard)
        differing = sorted(arrays.keys() ^ names)
        if differing:
            raise UserError(
                f"{index}: its list and its files differ in {len(differing)} names, for example "
                f"{differing[0]}. Get all files again"
            )
        return arrays

    def facts(self) -> list[dict[str, Any]]:
        """Name, size and SHA-256 of every file that was read."""
        return [
            {"name": file.name, "bytes": file.stat().st_size, "sha256": _sha256(file)}
            for file in self.files
        ]


def read_arrays(path: Path, choose: Choose, notes: list[str]) -> dict[str, np.ndarray]:
    """Read the chosen arrays of one file, half precisions as float32.

    Names in a nested file of Flax are joined by dots.

    Args:
      notes: gets a line for what was decided: the format, where the name does not tell it.

    Raises:
      UserError: missing, damaged, of another format, or PyTorch is needed and missing.
    """
    if not os.path.isfile(path):  # Path.is_file raises where a name is too long
        raise UserError(f"{path}: no such file")
    kind = format_of(path)
    if SUFFIXES.get(path.suffix) != kind:
        notes.append(f"{path.name}: read as a file of {kind}, by its first bytes")
    if kind == SAFETENSORS:
        return read_safetensors(path, choose)
    if kind == FLAX:
        return _read_flax(path, choose)
    return _read_torch(path, choose, notes)


def import_torch():
    """The module torch. Raises UserError: not installed."""
    try:
        import torch
    except ImportError as error:
        raise UserError(_NO_TORCH) from error
    return torch


def _read_flax(path: Path, choose: Choose) -> dict[str, np.ndarray]:
    try:
        tree = serialization.msgpack_restore(path.read_bytes())
        named = traverse_util.flatten_dict(tree, sep=".")
    except Exception as error:  # foreign bytes may raise anything
        raise UserError(
            f"{path}: cannot be read as Flax's msgpack ({str(error)[:200] or 'damaged'}). It may "
            "be truncated: get it again"
        ) from error
    foreign = [name for name, value in named.items() if not isinstance(value, np.ndarray)]
    if foreign:
        raise UserError(f"{path}: holds more than named arrays, for example {foreign[0]}")
    return {new: widened(named[name]) for name, new in choose(list(named)).items()}


def _read_torch(path: Path, choose: Choose, notes: list[str]) -> dict[str, np.ndarray]:
    torch = import_torch()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about formats; what matters is raised
            # Only the zip format of today can be mapped instead of read.
            content = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except Exception as error:  # unpickling foreign bytes may raise anything
        reason = str(error).strip().splitlines() or [type(error).__name__]
        if "weights_only" in str(error).lower() or "unsupported" in str(error).lower():
            raise UserError(
                f"{path}: holds more than arrays, and code in files is not run. Save its state "
                "dict alone (torch.save(model.state_dict(), ...))"
            ) from error
        raise UserError(
            f"{path}: cannot be read as a PyTorch file ({reason[0][:200]}). It may be truncated: "
            "get it again"
        ) from error
    state = _state(content, path, torch, notes)
    return {new: _to_numpy(state[name], name, path) for name, new in choose(list(state)).items()}


def _state(content: Any, path: Path, torch, notes: list[str]) -> Mapping[str, Any]:
    def is_state(value):
        return (
            isinstance(value, Mapping)
            and len(value) > 0
            and all(isinstance(k, str) and torch.is_tensor(v) for k, v in value.items())
        )

    if is_state(content):
        return content
    inside = content if isinstance(content, Mapping) else {}
    found = [name for name in (*_WRAPPERS, *_AVERAGES) if is_state(inside.get(name))]
    first = [name for name in found if name in _WRAPPERS] or found
    if len(first) == 1:
        rest = [f"{name!r}" for name in found if name not in first]
        beside = f", not the averages beside it in {', '.join(rest)}" if rest else ""
        notes.append(
            f"{path.name}: took the {len(inside[first[0]])} arrays in {first[0]!r}{beside}"
        )
        return inside[first[0]]
    there = ", ".join(map(repr, list(inside)[:8])) or type(content).__name__
    raise UserError(
        f"{path}: expected named arrays, at the top or under just one of {', '.join(_WRAPPERS)}; "
        f"found {there}. Save the model's state alone: torch.save(model.state_dict(), ...)"
    )


def _to_numpy(tensor, name: str, path: Path) -> np.ndarray:
    kind = str(tensor.dtype).removeprefix("torch.")
    if kind.startswith("float8") or getattr(tensor, "is_quantized", False):
        raise UserError(f"{path}: {name} {quantised(kind)}")
    tensor = tensor.detach()
    try:
        return (tensor.float() if kind in ("float16", "bfloat16") else tensor).numpy()
    except (TypeError, RuntimeError) as error:  # a number format or layout that numpy has not
        raise UserError(f"{path}: {name}: {str(error).splitlines()[0]}") from error


def _weights_in(folder: Path) -> Path:
    for name in _HUB_NAMES:
        if (folder / name).is_file():
            return folder / name
    files = sorted(file for file in folder.iterdir() if file.suffix in (*SUFFIXES, *BOTH_SUFFIXES))
    if len(files) != 1:
        raise UserError(
            f"{folder}: expected one of {', '.join(_HUB_NAMES)}, or a single weight file; found "
            f"{', '.join(file.name for file in files[:5]) or 'none'}. Name the file itself"
        )
    return files[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
