"""Opening a prepared data set, wherever it comes from: it brings no code and leads nowhere else.

TFDS imports whatever module a features.json names, and takes paths from dataset_info.json.
"""

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from google.protobuf import json_format

from ssp_jax.errors import UserError
from ssp_jax.json_files import load_json
from tfds_builders.facts import FACTS_FILE, read_dataset_facts
from tfds_builders.features import clip_features

_AGAIN = "Prepare the data set again, or copy it again"


def open_builder(folder: str) -> tfds.core.DatasetBuilder:
    """TFDS's builder of a version folder, such as DIR/avs_s4/native/1.0.0.

    Raises:
      UserError: not a prepared data set of this project, damaged, or one that names code or files
        elsewhere.
    """
    path = Path(folder)
    if not (path / "dataset_info.json").is_file():
        raise UserError(
            f"{folder}: not a prepared data set (no dataset_info.json); expected the version folder"
            " that the builder wrote, such as DIR/avs_s4/1.0.0. Prepare the data first."
        )
    _check_links(path)
    _read(path / "dataset_info.json")
    _check_classes(path / "features.json")
    try:
        builder = tfds.builder_from_directory(folder)
        splits, features = builder.info.splits, _as_json(builder.info.features)
        places = {os.path.dirname(file) for split in splits.values() for file in split.filepaths}
        counts = {name: split.num_examples for name, split in splits.items()}
    except Exception as error:  # TFDS and protobuf raise anything
        raise UserError(
            f"{folder}: dataset_info.json or features.json is damaged ({_first_line(error)})."
            f" {_AGAIN}."
        ) from error
    if builder.info.file_format is None or builder.info.file_format.value != "array_record":
        raise UserError(
            f"{folder}: prepared as {builder.info.file_format}, expected array_record; prepare it"
            " again with this project's builders."
        )
    if places - {os.fspath(folder)}:
        raise UserError(
            f"{folder}: dataset_info.json names files in {', '.join(sorted(places))}, expected"
            f" files of that folder alone. {_AGAIN}."
        )
    if features not in _known_features():
        raise UserError(
            f"{folder}: features.json is not that of a clip of this project's builders. {_AGAIN}."
        )
    if (path / FACTS_FILE).exists():
        told = {name: count for name, count in read_dataset_facts(path).splits.items() if count}
        if told != counts:
            raise UserError(
                f"{folder}: dataset_info.json counts other clips ({counts}) than {FACTS_FILE}"
                f" ({told}). {_AGAIN}."
            )
    return builder


def _as_json(features: tfds.features.FeaturesDict) -> dict[str, Any]:
    return json_format.MessageToDict(features.to_proto())


@functools.cache
def _known_features() -> list[dict[str, Any]]:
    return [_as_json(clip_features(with_objects=objects)) for objects in (False, True)]


@functools.cache
def _known_classes() -> frozenset[str]:
    return frozenset(name for known in _known_features() for name in _classes(known))


def _classes(tree: Any) -> Iterator[Any]:
    """Return what TFDS would import: classes by the names of two generations of the file."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key in ("pythonClassName", "python_class_name", "type", "proto_cls"):
                yield value
            yield from _classes(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _classes(value)


def _read(path: Path) -> Any:
    try:
        return load_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}). {_AGAIN}.") from error


def _check_classes(path: Path) -> None:
    # As texts: what is no name may be of any kind.
    foreign = [name for name in map(str, _classes(_read(path))) if name not in _known_classes()]
    if foreign:
        raise UserError(
            f"{path}: names the class {foreign[0]!r}, and code that data name is not run. Expected"
            f" a data set of this project's builders. {_AGAIN}."
        )


def _check_links(path: Path) -> None:
    """Records are added below the folder: a link would let them overwrite anything."""
    home = path.resolve()
    for place, folders, files in os.walk(path):
        for name in (*folders, *files):
            entry = Path(place, name)
            if entry.is_symlink() and not entry.resolve().is_relative_to(home):
                raise UserError(
                    f"{entry}: a link to {os.readlink(entry)}, out of the prepared data set."
                    " Replace it by a copy, or link the folder as a whole"
                )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
