"""Which format a weight file has, told by its first bytes: names of files tell little."""

import re
import zipfile
from pathlib import Path

from ssp_jax.errors import UserError

SAFETENSORS, TORCH, FLAX = "safetensors", "PyTorch", "Flax"
SUFFIXES = {
    ".safetensors": SAFETENSORS,
    **dict.fromkeys((".pth", ".pt", ".bin"), TORCH),
    ".msgpack": FLAX,
}
# Both PyTorch's and TensorFlow's: only the first bytes tell.
BOTH_SUFFIXES = (".ckpt", ".tar")
_TENSORFLOW_SUFFIXES = (".ckpt", ".index", ".meta", ".h5", ".pb")
_HEAD = 1024
_PICKLE = re.compile(rb"\x80[\x02-\x05][\x8a\x95}\](c]", re.DOTALL)
# What PyTorch's older format begins with: its magic number, as a pickled integer.
_TORCH_MAGIC = bytes.fromhex("8a0a6cfc9c46f9206aa85019")
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_OTHERS = {
    b"\x93NUMPY": "an array of NumPy (.npy)",
    b"GGUF": "a file of llama.cpp (GGUF), whose weights are quantised",
}
# tensorflow-checkpoint-reader 0.2.2, the one reader on PyPI without TensorFlow, reads the later
# format of two files and needs protobuf < 3.19, which excludes TFDS.
TENSORFLOW = (
    "TensorFlow's checkpoints are not read (vggish_model.ckpt is of a format for which there is "
    "no reader but TensorFlow). The same weights: --source=vggish with vggish-10086976.pth of "
    "harritaylor/torchvggish"
)
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def format_of(path: Path) -> str:
    """Return SAFETENSORS, TORCH or FLAX, by the first bytes or, where they say nothing, the name.

    Raises:
      UserError: of another format, or no weights at all, saying what it is and what to do.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    _check_is_weights(path, head)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 40:
        return SAFETENSORS
    if head.startswith(b"PK\x03\x04"):
        return _zipped(path)
    if _PICKLE.match(head):
        if _TORCH_MAGIC not in head[:32]:
            raise UserError(
                f"{path}: a pickle that torch.save did not write, and code in files is not run. "
                "Save its arrays with safetensors.numpy.save_file, or a state dict with torch.save"
            )
        return TORCH
    named = SUFFIXES.get(path.suffix)
    is_map = head and (0x81 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF))  # of MessagePack
    if named is None and is_map:
        return FLAX
    if named is None and (path.suffix in _TENSORFLOW_SUFFIXES or ".data-" in path.name):
        raise UserError(f"{path}: {TENSORFLOW}")
    if named is None:
        raise UserError(f"{path}: expected a .safetensors, .pth, .pt, .ckpt, .bin or .msgpack file")
    return named


def _check_is_weights(path: Path, head: bytes) -> None:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"version https://git-lfs"):
        raise UserError(
            f"{path}: a pointer of Git LFS, not the weights themselves. Run `git lfs install` and "
            "`git lfs pull` in its folder, or download the file by itself"
        )
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        raise UserError(
            f"{path}: a web page, not weights: the address was that of a page about the file, or "
            "asked for a login. Download the file itself (on the Hugging Face hub /resolve/ in "
            "place of /blob/)"
        )
    if head.startswith(b"\x89HDF"):
        raise UserError(f"{path}: HDF5, as Keras writes it. {TENSORFLOW}")
    packed = next((name for magic, name in _PACKED.items() if head.startswith(magic)), None)
    packed = "tar" if head[257:262] == b"ustar" else packed
    if packed:
        raise UserError(f"{path}: packed by {packed}. Unpack it, and name the weights inside")
    other = next((name for magic, name in _OTHERS.items() if head.startswith(magic)), None)
    if other:
        raise UserError(f"{path}: {other}; expected a file of safetensors, PyTorch or Flax")


def _zipped(path: Path) -> str:
    """PyTorch's newer format is a zip archive; so are many other things."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return TORCH  # damaged, as reading says
    if any(name.rpartition("/")[2] == "data.pkl" for name in names):
        return TORCH
    raise UserError(
        f"{path}: a zip archive of other things ({', '.join(names[:3]) or 'nothing'}), not a file "
        "of PyTorch. Unpack it, and name the weights inside"
    )


def not_there(path: Path) -> str:
    """Say that a path is not there, and what to do where it is the name of a model on the hub."""
    name, known = str(path), (*SUFFIXES, *BOTH_SUFFIXES, *_TENSORFLOW_SUFFIXES)
    if path.is_absolute() or path.suffix in known or not _HUB_NAME.fullmatch(name):
        return f"{path}: no such file or folder"
    folder = path.name
    return (
        f"{path}: no such file or folder. If it is a name on the Hugging Face hub: nothing is "
        f"downloaded here; `hf download {name} --local-dir={folder}`, then --path={folder}"
    )
