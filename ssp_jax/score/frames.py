"""Which frames are scored: the truth as it lies on disk, and the prediction of each frame.

Truth is either a benchmark in AVSBench's own layout (a folder with its csv file), of which one
split is scored, or any tree of PNG files, all of which are scored. Protocol stepping_stones scores
S4 and MS3 on AVSS's folder, v1s and v1m. Predictions:

- of a benchmark: PNG files whose path names clip and frame as the truth does, wherever else they
  lie: `UID_3.png`, `UID/3.png`, `test/CATEGORY/UID/UID_3.png`, `v2/UID/labels_rgb/3.png`, ...
  Frames are numbered as in the truth: from 1 in S4 and MS3, from 0 in AVSS. Where every clip has
  exactly one number less (0 to 4) or more, they are taken too.
- of a tree: the same paths as in the truth. `CLIP/3.png`, `CLIP_3.png` and `CLIP/CLIP_3.png` are
  frames of one clip, which matters where a protocol groups or fills up clips. Its classes are
  AVSBench's, or those of a label2idx.json in it.
"""

import collections
import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path, PurePosixPath

from ssp_jax.errors import UserError
from ssp_jax.json_files import load_json
from ssp_jax.protocols import Protocol
from tfds_builders.avs_ms3.avs_ms3 import AvsMs3
from tfds_builders.avs_s4.avs_s4 import AvsS4
from tfds_builders.avss.avss import Avss
from tfds_builders.classes import AVSS_CLASSES, class_names_from_json
from tfds_builders.folders import LAYOUTS, MACS_FOLDER, is_macs
from tfds_builders.problems import Problem

BENCHMARKS = ("s4", "ms3", "avss")
_SUBSETS = {"s4": "v1s", "ms3": "v1m"}
_BUILDERS = {"s4": AvsS4, "ms3": AvsMs3, "avss": Avss}
_NUMBERED = re.compile(r"(?:(.*)_)?(\d{1,6})", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Frame:
    """One frame to score.

    Attributes:
      clip: number of its clip, in the benchmark's order. uid: name of that clip.
      number: of the frame in its clip, as the truth's file has it. truth: that file.
    """

    clip: int
    uid: str
    number: int
    truth: Path


@dataclasses.dataclass(frozen=True)
class Truth:
    """What a folder of truth holds.

    Attributes:
      where: in words. class_names: background first; of AVSS.
      is_tree: of plain PNG files. problems: of the benchmark's table.
      frames: by the key that a prediction's path must give, see `Truth.key`.
    """

    where: str
    is_tree: bool
    class_names: tuple[str, ...]
    frames: Mapping[str | tuple[str, int], Frame]
    problems: Sequence[Problem]

    def key(self, path: PurePosixPath, uids: frozenset[str]) -> str | tuple[str, int] | None:
        """Key of the frame that a prediction at this path, relative to its folder, belongs to."""
        if self.is_tree:
            return str(path.with_suffix(""))
        match = _NUMBERED.fullmatch(path.stem)
        if match is None:
            return None
        names = [match[1], *reversed(path.parent.parts)]
        uid = next((name for name in names if name in uids), None)
        return None if uid is None else (uid, int(match[2]))


def find_truth(folder: Path, benchmark: str, split: str, protocol: Protocol) -> Truth:
    """The frames that a protocol scores of a benchmark.

    Raises:
      UserError: no such folder or split, another benchmark's folder, or no mask at all.
    """
    if not folder.is_dir():
        raise UserError(f"--truth={folder}: no such folder")
    children = [child for child in sorted(folder.iterdir()) if child.is_dir()]
    places = [folder, *children, *(c / layout.folder for c in children for layout in LAYOUTS)]
    if any((place / layout.table).is_file() for place in places for layout in LAYOUTS):
        return _of_benchmark(folder, benchmark, split, protocol)
    return _of_tree(folder)


def _of_benchmark(folder: Path, benchmark: str, split: str, protocol: Protocol) -> Truth:
    layout = benchmark
    if benchmark != "avss" and protocol.binary_targets == "semantic_labels":
        layout, split = "avss", f"{split}_{_SUBSETS[benchmark]}"
    builder = _BUILDERS[layout](source=folder)
    splits = builder.clips()
    names = [name for name in splits if name == split or name.startswith(f"{split}_")]
    clips = [clip for name in names for clip in splits[name]]
    if not clips:
        known = ", ".join(name for name in splits if splits[name])
        raise UserError(f"--split={split}: {builder.root} has no clip of it; it has {known}")
    frames = {}
    for position, clip in enumerate(clips):
        for path in clip.labels:
            if layout == "avss":
                path = path.parent.with_name(protocol.semantic_targets) / path.name
            number = int(_NUMBERED.fullmatch(path.stem)[2])
            frames[clip.uid, number] = Frame(position, clip.uid, number, path)
    where = f"{'+'.join(names)} of {builder.root}"
    class_names = tuple(builder.names()[0])
    return Truth(where, False, class_names, frames, builder.table_problems)


def _of_tree(folder: Path) -> Truth:
    paths = list(png_files(folder))
    if not paths:
        raise UserError(
            f"--truth={folder}: neither AVSBench (no {', '.join(x.table for x in LAYOUTS)}) nor a "
            "single PNG file; expected the folder as downloaded, or masks as PNG"
        )
    named: dict[tuple[str, int], PurePosixPath] = {}
    for path in paths:
        name = _clip_and_number(path.with_suffix(""))
        if name in named:
            raise UserError(
                f"--truth={folder}: {named[name]} and {path} are both frame {name[1]} of one clip"
            )
        named[name] = path
    clips = {clip: i for i, clip in enumerate(sorted({clip for clip, _ in named}))}
    frames = {
        str(path.with_suffix("")): Frame(clips[clip], clip, number, folder / path)
        for (clip, number), path in named.items()
    }
    return Truth(f"all of {folder}", True, _class_names(folder), frames, ())


def _class_names(folder: Path) -> tuple[str, ...]:
    """Those of a tree's label2idx.json, else AVSBench's."""
    path = folder / "label2idx.json"
    if not path.is_file():
        return AVSS_CLASSES
    try:
        return class_names_from_json(load_json(path))
    except (OSError, ValueError) as error:
        expected = 'expected {"background": 1, "accordion": 2, ...}'
        raise UserError(f"{path}: {error}; {expected}") from error


def _clip_and_number(key: PurePosixPath) -> tuple[str, int]:
    match = _NUMBERED.fullmatch(key.name)
    if match is None:
        return str(key), 0
    return str(key.parent / (match[1] or "")), int(match[2])


def png_files(folder: Path) -> Iterable[PurePosixPath]:
    """Paths, relative to the folder, of all PNG files in it, in order; follows no links.

    What a Mac adds to a zip (`._*`, `__MACOSX`) is left out.
    """
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != MACS_FOLDER)
        home = PurePosixPath(Path(place).relative_to(folder).as_posix())
        for name in sorted(files):
            if is_macs(name):
                continue
            if name.lower().endswith(".png") and Path(place, name).is_file():
                yield home / name


def find_predictions(
    folder: Path, truth: Truth
) -> tuple[dict[Frame, Path], list[Problem], list[Problem], int]:
    """The prediction of every frame; what is missing or there twice; what is surplus; and by how
    much the predictions' numbers were shifted, see `_shift`.

    Raises:
      UserError: no such folder, or not a single prediction in it.
    """
    if not folder.is_dir():
        raise UserError(f"--pred={folder}: no such folder")
    uids = frozenset(frame.uid for frame in truth.frames.values())
    keys = {path: truth.key(path, uids) for path in png_files(folder)}
    shift = _shift(truth, keys.values())
    if not shift and not any(key in truth.frames for key in keys.values()):
        raise UserError(_nothing_there(folder, truth))
    found: dict[Frame, Path] = {}
    problems, surplus = [], []
    for path, key in keys.items():
        if shift and key is not None:
            key = key[0], key[1] + shift
        frame = truth.frames.get(key)
        if frame is None:
            what = "surplus: no scored frame has this name"
            surplus.append(Problem("", str(folder / path), what, "surplus"))
        elif frame in found:
            what = f"second prediction of frame {frame.number}, beside {found[frame]}"
            problems.append(Problem(frame.uid, str(folder / path), what, "twice"))
        else:
            found[frame] = folder / path
    return found, [*_missing(folder, truth, found, set(keys.values())), *problems], surplus, shift


def _shift(truth: Truth, keys: Iterable[str | tuple[str, int] | None]) -> int:
    """Return what every prediction's number lacks to the truth's: 1 or -1 where that fits all clips
    exactly, as of masks numbered from 0 beside truth numbered from 1; else 0."""
    if truth.is_tree:
        return 0
    wanted, numbers = collections.defaultdict(set), collections.defaultdict(set)
    for uid, number in truth.frames:
        wanted[uid].add(number)
    for key in filter(None, keys):
        numbers[key[0]].add(key[1])
    for shift in (1, -1):
        if numbers == {uid: {n - shift for n in wanted[uid]} for uid in wanted}:
            return shift
    return 0


def _nothing_there(folder: Path, truth: Truth) -> str:
    """Return what a folder without a single prediction holds instead, and what was expected."""
    kinds: dict[str, list[str]] = collections.defaultdict(list)
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != MACS_FOLDER)
        for name in sorted(files):
            if not name.startswith("."):
                kinds[Path(name).suffix.lower()].append(os.path.relpath(Path(place, name), folder))
    holds = ", ".join(
        f"{len(names)} {kind or 'unnamed'} files (the first is {names[0]})"
        for kind, names in sorted(kinds.items(), key=lambda item: -len(item[1]))[:3]
    )
    frame = next(iter(truth.frames.values()))
    name = f"{frame.uid}_{frame.number}.png"
    if truth.is_tree:
        name = f"{next(iter(truth.frames))}.png"
    what = "no PNG file" if ".png" not in kinds else "no PNG file has the name of a scored frame"
    return (
        f"--pred={folder}: {what}; the folder holds {holds or 'no file'}. Expected masks as PNG, "
        f"one for each of {len(truth.frames)} frames, such as {name}"
    )


def _missing(
    folder: Path, truth: Truth, found: Mapping[Frame, Path], keys: Set
) -> Iterable[Problem]:
    """A line a frame, or one a clip where all of its frames are missing."""
    wanted, missing = collections.defaultdict(list), collections.defaultdict(list)
    for frame in truth.frames.values():
        wanted[frame.uid].append(frame.number)
        if frame not in found:
            missing[frame.uid].append(frame.number)
    for uid, numbers in missing.items():
        if len(numbers) == len(wanted[uid]):
            what = f"missing: none of its {len(numbers)} predictions"
        else:
            what = f"missing: prediction of frame {', '.join(map(str, numbers))}"
            first = min(wanted[uid])
            if (uid, first - 1) in keys:
                what += f"; numbered from {first - 1}, and the truth is numbered from {first}"
        yield Problem(uid, str(folder), what, "missing")
