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
from ssp_jax.weights.folder import read_safetensors, widened

_TORCH_SUFFIXES = (".pth", ".pt", ".bin")
_FLAX_SUFFIX = ".msgpack"
_TENSORFLOW_SUFFIXES = (".ckpt", ".index", ".meta", ".h5", ".pb")
# Names in a folder as the hub has it, the best first.
_HUB_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "flax_model.msgpack",
)
_WRAPPERS = ("model", "state_dict", "model_state_dict")
_NO_TORCH = (
    "reading and writing .pth, .pt and .bin needs PyTorch: pip install torch==2.13.0 (or this "
    "project's parity extra), or use a .safetensors file"
)


class Source:
    """Arrays of a weight file, or of several with an index.

    Attributes:
      arrays: by name. files: those that were read. config: config.json beside them, or None.
      skipped: the beginnings of names that were left out.
    """

    def __init__(self, path: str | Path, skip: Iterable[str] = ()):
        """Read a file, or the weights of a folder, but for names that begin with one of `skip`.

        Raises:
          UserError: nothing there, not a weight file, damaged, or PyTorch is needed and missing.
        """
        path, self._skip = Path(path), tuple(skip)
        self.skipped: set[str] = set()
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")
        weights = _weights_in(path) if path.is_dir() else path
        self.files = [weights]
        if weights.name.endswith(".index.json"):
            self.arrays = self._shards(weights)
        else:
            self.arrays = read_arrays(weights, self._wanted)
        if not (self.arrays or self.skipped):
            raise UserError(f"{weights}: holds no arrays")
        config = weights.parent / "config.json"
        self.config_path = config if config.is_file() else None
        self.config = read_object(config) if self.config_path else None

    def _wanted(self, name: str) -> bool:
        beginnings = {beginning for beginning in self._skip if name.startswith(beginning)}
        self.skipped |= beginnings
        return not beginnings

    def _shards(self, index: Path) -> dict[str, np.ndarray]:
        names = read_object(index).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
            raise UserError(f"{index}: expected an object weight_map, array name to file name")
        # A shard without wanted names need not even be there.
        names = {name: shard for name, shard in names.items() if self._wanted(name)}
        arrays = {}
        for shard in sorted(set(names.values())):
            if Path(shard).name != shard:
                raise UserError(f"{index}: names a file outside of its folder, {shard!r}")
            arrays |= read_arrays(index.parent / shard, self._wanted)
            self.files.append(index.parent / shard)
        differing = sorted(arrays.keys() ^ names.keys())
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


def read_arrays(path: Path, wanted: Callable[[str], bool]) -> dict[str, np.ndarray]:
    """All arrays of one file with a wanted name, half precisions as float32.

    Names in a nested file of Flax are joined by dots.

    Raises:
      UserError: missing, damaged, of another format, or PyTorch is needed and missing.
    """
    if not os.path.isfile(path):  # Path.is_file raises where a name is too long
        raise UserError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        return read_safetensors(path, wanted)
    if path.suffix in _TORCH_SUFFIXES:
        return _read_torch(path, wanted)
    if path.suffix == _FLAX_SUFFIX:
        return _read_flax(path, wanted)
    if path.suffix in _TENSORFLOW_SUFFIXES or ".data-" in path.name:
        raise UserError(f"{path}: {TENSORFLOW}")
    raise UserError(f"{path}: expected a .safetensors, .pth, .pt, .bin or .msgpack file")


# tensorflow-checkpoint-reader 0.2.2, the one reader on PyPI without TensorFlow, reads the later
# format of two files and needs protobuf < 3.19, which excludes TFDS.
TENSORFLOW = (
    "TensorFlow's checkpoints are not read (vggish_model.ckpt is of a format for which there is "
    "no reader but TensorFlow). The same weights: --source=vggish with vggish-10086976.pth of "
    "harritaylor/torchvggish"
)


def import_torch():
    """The module torch. Raises UserError: not installed."""
    try:
        import torch
    except ImportError as error:
        raise UserError(_NO_TORCH) from error
    return torch


def _read_flax(path: Path, wanted: Callable[[str], bool]) -> dict[str, np.ndarray]:
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
    return {name: widened(value) for name, value in named.items() if wanted(name)}


def _read_torch(path: Path, wanted: Callable[[str], bool]) -> dict[str, np.ndarray]:
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
    try:
        state = _state(content, path, torch).items()
        return {name: _to_numpy(tensor, torch) for name, tensor in state if wanted(name)}
    except (TypeError, RuntimeError) as error:  # a number format or layout that numpy has not
        raise UserError(f"{path}: {str(error).splitlines()[0]}") from error


def _state(content: Any, path: Path, torch) -> Mapping[str, Any]:
    def is_state(value):
        return (
            isinstance(value, Mapping)
            and len(value) > 0
            and all(isinstance(k, str) and torch.is_tensor(v) for k, v in value.items())
        )

    if is_state(content):
        return content
    inner = [
        content[name]
        for name in _WRAPPERS
        if isinstance(content, Mapping) and is_state(content.get(name))
    ]
    if len(inner) != 1:
        raise UserError(
            f"{path}: expected named arrays, at the top or under one of {', '.join(_WRAPPERS)}"
        )
    return inner[0]


def _to_numpy(tensor, torch) -> np.ndarray:
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor).numpy()


def _weights_in(folder: Path) -> Path:
    for name in _HUB_NAMES:
        if (folder / name).is_file():
            return folder / name
    files = sorted(
        file
        for file in folder.iterdir()
        if file.suffix in (".safetensors", *_TORCH_SUFFIXES, _FLAX_SUFFIX)
    )
    if len(files) != 1:
        raise UserError(
            f"{folder}: expected one of {', '.join(_HUB_NAMES)}, or a single weight file; found "
            f"{', '.join(file.name for file in files[:5]) or 'none'}. Name the file itself"
        )
    return files[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
