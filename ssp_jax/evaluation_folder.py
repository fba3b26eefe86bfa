"""What the folder of an evaluation holds besides its scores: the config, and of what they are.

`evaluation.json` has the weights and the data sets by digests of what they hold, so that a folder
never mixes the scores of several networks.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from ssp_jax.errors import UserError
from ssp_jax.json_files import read_sealed, write_sealed
from ssp_jax.processes import is_first
from ssp_jax.run_folder import check_workdir

EVALUATION = "evaluation.json"
_REMEDY = "Put a copy back, or use another --workdir"


def read_evaluation(workdir: Path) -> dict[str, Any] | None:
    """Return the identity that an evaluation kept in its folder; None where there is none.

    Raises:
      UserError: it is damaged.
    """
    path = workdir / EVALUATION
    return read_sealed(path, _REMEDY) if path.exists() else None


def compare_evaluation_folder(
    config: ConfigDict, workdir: Path, identity: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return the identity that the folder has with this evaluation in it; writes nothing.

    Args:
      identity: {"weights": {stage: {"digest", "from"}}, "data": {words: fingerprint}, "texts":
        {words: digest}}. Stages and words that are new to the folder join those that are there.

    Raises:
      UserError: the folder holds a run, or scores of other weights, data or another config.
    """
    kept = read_evaluation(workdir)
    if (workdir / "config.json").exists():
        if kept is None:
            raise UserError(
                f"--workdir={workdir}: holds a run; scores of its weights go into a folder of "
                "their own. Use another --workdir"
            )
        check_workdir(config, workdir)
    joined = {}
    for kind, new in identity.items():
        old = (kept or {}).get(kind, {})
        for key in sorted(old.keys() & new.keys()):
            if _digest(old[key]) != _digest(new[key]):
                raise UserError(f"{workdir} {_told_apart(kind, key, old[key], new[key])}")
        joined[kind] = {**new, **old}
    return joined


def check_evaluation_folder(
    config: ConfigDict, workdir: Path, identity: Mapping[str, Mapping[str, Any]]
) -> None:
    """Keep config and identity in the folder; refuse a folder of another evaluation.

    Of several processes the first has to be done before the others ask.

    Raises:
      UserError: see `compare_evaluation_folder`; or the folder cannot be written.
    """
    joined = compare_evaluation_folder(config, workdir, identity)
    if joined != read_evaluation(workdir):
        if not is_first():
            raise UserError(
                f"--workdir={workdir}: process {jax.process_index()} does not find there what "
                "process 0 wrote. Name a folder that all of the evaluation's machines share"
            )
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            write_sealed(workdir / EVALUATION, joined)
        except OSError as error:
            raise UserError(f"--workdir={workdir}: cannot be written ({error})") from error
    check_workdir(config, workdir)


def _digest(value: Any) -> Any:
    return value["digest"] if isinstance(value, Mapping) else value


def _told_apart(kind: str, key: str, old: Any, new: Any) -> str:
    if kind == "weights":
        folders = (",".join(value["from"]) for value in (old, new))
        told = "holds the scores of other weights (stage {}: {} there, {} now{})".format(
            key, *folders, "" if old["from"] != new["from"] else ", which has changed since"
        )
    elif kind == "data":
        told = f"holds the scores of other data ({key} was prepared anew, or is another copy)"
    else:
        told = f"holds the scores of other texts (those of {key} have changed)"
    return f"{told}. Use another --workdir, or the same as then to go on"
