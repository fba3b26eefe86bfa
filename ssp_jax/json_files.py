"""JSON from files that may be damaged or of strangers, and with a checksum in those of our own."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ssp_jax.errors import UserError
from ssp_jax.files import size_of, write_whole

MAX_BYTES, MAX_DEPTH = 256 << 20, 64
_SEAL = "sha256"


def load_json(path: Path, *, hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """The content of a JSON file in UTF-8; `hook` as `object_pairs_hook` of `json.loads`.

    Raises:
      OSError: it cannot be read. ValueError: no JSON, no plain file, of absurd size or depth.
    """
    size = size_of(path)
    if size > MAX_BYTES:
        raise ValueError(f"{size >> 20} MiB; expected at most {MAX_BYTES >> 20}")
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=hook)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level = [content]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return content
    raise ValueError("nested too deeply")


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def seal(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON object with its own checksum in it."""
    return {**facts, _SEAL: _digest(facts)}


def is_sealed(facts: Mapping[str, Any]) -> bool:
    """Tell whether the object is as `seal` left it."""
    return facts.get(_SEAL) == _digest({k: v for k, v in facts.items() if k != _SEAL})


def write_sealed(path: Path, facts: Mapping[str, Any]) -> None:
    """Write a JSON object with its own checksum, see `write_whole`."""
    facts = json.loads(json.dumps(facts))  # as it will be read: names of keys are texts
    write_whole(path, json.dumps(seal(facts), indent=1) + "\n")


def read_object(path: Path, remedy: str = "") -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
      UserError: it cannot be read, or is none; `remedy` ends the message.
    """
    end = f". {remedy}" if remedy else ""
    try:
        content = load_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}){end}") from error
    if not isinstance(content, dict):
        found = type(content).__name__
        raise UserError(f"{path}: expected a JSON object, found {found}{end}")
    return content


def read_sealed(path: Path, remedy: str) -> dict[str, Any]:
    """Return what `write_sealed` wrote, or any object without a checksum, as older code wrote them.

    Raises:
      UserError: see `read_object`; it is not as it was written.
    """
    facts = read_object(path, remedy)
    if not is_sealed(facts) and (_SEAL in facts or _has_other_seal(facts)):
        raise UserError(
            f"{path}: not as it was written, its checksum differs. {remedy}. Whoever edited it by "
            f"hand removes the key {_SEAL!r}"
        )
    return {key: value for key, value in facts.items() if key != _SEAL}


def with_tuples(value: Any) -> Any:
    """Return a config as it was before it became JSON, which knows lists only."""
    if isinstance(value, dict):
        return {key: with_tuples(inner) for key, inner in value.items()}
    return tuple(map(with_tuples, value)) if isinstance(value, list) else value


def _has_other_seal(facts: Mapping[str, Any]) -> bool:
    """Tell whether the checksum is there under another name: it is the name that is damaged."""
    digests = [key for key, value in facts.items() if isinstance(value, str) and len(value) == 64]
    return any(facts[key] == _digest({k: facts[k] for k in facts if k != key}) for key in digests)


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
