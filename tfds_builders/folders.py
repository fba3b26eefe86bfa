"""Finds a benchmark in the folder that the user has, and says what another folder looks like."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ssp_jax.errors import UserError

_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
_PROBED = 50  # clips that are looked for to tell candidate folders apart

MACS_FOLDER = "__MACOSX"  # what a Mac adds to a zip: the folders again, with files `._*`


def is_macs(name: str) -> bool:
    """Tell whether a file or folder of this name is a Mac's addition to a zip."""
    return name == MACS_FOLDER or name.startswith("._")


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a benchmark is recognised on disk.

    Attributes:
      benchmark, title: for messages. folder: its usual name, empty where any name is usual.
      table: csv file in it. expected: the layout in words.
    """

    benchmark: str
    title: str
    folder: str
    table: str
    expected: str


S4 = Layout(
    "s4",
    "AVSBench S4 (single source)",
    "Single-source",
    "s4_meta_data.csv",
    "a folder that holds Single-source/ with s4_meta_data.csv and s4_data/{visual_frames,gt_masks,"
    "audio_wav}/, or Single-source/ itself",
)
MS3 = Layout(
    "ms3",
    "AVSBench MS3 (multiple sources)",
    "Multi-sources",
    "ms3_meta_data.csv",
    "a folder that holds Multi-sources/ with ms3_meta_data.csv and ms3_data/{visual_frames,"
    "gt_masks,audio_wav}/, or Multi-sources/ itself",
)
AVSS = Layout(
    "avss",
    "AVSBench-semantic (AVSS)",
    "",
    "metadata.csv",
    "a folder with metadata.csv, label2idx.json, v1s/, v1m/ and v2/",
)
LAYOUTS = (S4, MS3, AVSS)


def find_root(source: str | Path, layout: Layout) -> Path:
    """The folder that holds the layout's table: `source` itself or one at most two levels below.

    Raises:
      UserError: no such folder, or another benchmark's: the message says what it looks like.
    """
    source = Path(source).expanduser()
    if not source.exists():
        raise UserError(f"{source}: no such folder; expected {layout.title}: {layout.expected}.")
    if not source.is_dir():
        kind = "an archive: unpack it first" if source.suffix in _ARCHIVES else "a file"
        raise UserError(f"{source}: this is {kind}; expected {layout.title}: {layout.expected}.")
    for candidates in _candidates(source, layout):
        found = [folder for folder in candidates if (folder / layout.table).is_file()]
        if len(found) > 1:
            raise UserError(
                f"{source}: {layout.table} is in {len(found)} folders ("
                f"{', '.join(str(f) for f in found)}); name the one that is meant."
            )
        if found:
            return found[0].resolve()
    raise UserError(
        f"{source}: not {layout.title} ({layout.table} was not found); expected {layout.expected}."
        f" {_looks_like(source, layout)}"
    )


def _candidates(source: Path, layout: Layout) -> list[list[Path]]:
    children = _subfolders(source)
    usual = [[source / layout.folder]] if layout.folder else []
    below = [[child / layout.folder for child in children]] if layout.folder else []
    return [*usual, [source], *below, children]


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(
            child for child in folder.iterdir() if child.is_dir() and not is_macs(child.name)
        )
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error}).") from error


def _looks_like(source: Path, wanted: Layout) -> str:
    if any((source / name).is_file() for name in ("dataset.json", "dataset_info.json")):
        return "It looks like a prepared data set: it needs no preparing; name the downloaded one."
    for layout in LAYOUTS:
        folders = [folder for group in _candidates(source, layout) for folder in group]
        if layout is not wanted and any((folder / layout.table).is_file() for folder in folders):
            return f"It looks like {layout.title}: that is benchmark {layout.benchmark}."
    content = sorted(path.name for path in source.iterdir() if not is_macs(path.name))
    if archives := [name for name in content if Path(name).suffix in _ARCHIVES]:
        return f"It holds archives: unpack them first ({', '.join(archives[:5])})."
    if any((source / name).is_dir() for name in ("v1s", "v1m", "v2")):
        return f"It holds AVSS's subsets, yet no {AVSS.table}: copy that file here."
    if any((source / name).is_dir() for name in ("s4_data", "ms3_data")):
        return f"It holds AVSBench-object's data, yet no {wanted.table}: copy that file beside it."
    shown = ", ".join(content[:8]) + (", ..." if len(content) > 8 else "")
    return f"It holds {shown}." if content else "It is empty."


def find_data(root: Path, name: str, part: str) -> Path:
    """The folder `name` below `root` that holds `part`, also where unpacking nested it twice.

    Raises:
      UserError: neither is there.
    """
    for folder in (root / name, root / name / name):
        if (folder / part).is_dir():
            return folder
    raise UserError(f"{root}: {name}/{part} is missing; unpack {name}'s archive here.")


def find_subset(root: Path, subset: str, uids: Sequence[str]) -> Path:
    """The folder below `root` that holds a subset's clips, probing for doubled or extra levels.

    Zips are seen with the subset's folder as their root ('v2/v2/<uid>', avsbench 7). Where none of
    the candidates has a clip, the regular place is returned, for messages to name.
    """
    candidates = [root / subset, root / subset / subset]
    candidates += [c / subset for c in _subfolders(root) if c.name not in ("v1s", "v1m", "v2")]
    probed = uids[:: max(1, len(uids) // _PROBED)]
    found = [sum((folder / uid).is_dir() for uid in probed) for folder in candidates]
    return candidates[found.index(max(found))]
