"""What a run's stages need, besides their parameters, to predict where the training data are not.

`facts.json` (names of classes and sounds, version of the code) and, for networks that read texts,
`tokeniser/`, in the run's folder beside its config. In one of `ssp_jax.hub` also the weight folders
`flow_weights/` and `clip_weights/`, where its inputs need them.
"""

import dataclasses
import importlib.metadata
import json
import subprocess
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ssp_jax.data.datasets import DataSets
from ssp_jax.errors import UserError
from ssp_jax.files import write_whole
from ssp_jax.prompts.tokeniser import Tokeniser

FACTS, TOKENISER = "facts.json", "tokeniser"
# Folders of weights by the section of the config that names them.
INPUT_WEIGHTS = {"flow": "flow_weights", "clip": "clip_weights"}


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """A run's config, data sets that tell names but hold no clips, and the code's version."""

    config: ConfigDict
    data: DataSets
    code: str


def keep_facts(workdir: Path, data: DataSets, tokeniser: Tokeniser | None) -> None:
    """Write them into a run's folder, unless they are there. `tokeniser`: of its texts."""
    if not (workdir / FACTS).exists():
        facts = {
            "class_names": data.class_names,
            "sound_names": data.sound_names,
            "code": code_version(),
        }
        write_whole(workdir / FACTS, json.dumps(facts, indent=1) + "\n")
    if tokeniser is not None and not (workdir / TOKENISER).exists():
        tokeniser.save(workdir / TOKENISER)


def code_version() -> str:
    """'0.1.0', with the commit where this is a git checkout ('-dirty' where it was changed)."""
    version, root = importlib.metadata.version("ssp-jax"), Path(__file__).parent.parent
    if not (root / ".git").exists():
        return version
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return version
    return f"{version}, commit {found.stdout.strip()}"


def read_facts(workdir: Path) -> RunFacts:
    """The facts of a run's folder; its config names the tokeniser that was kept.

    Raises:
      UserError: not a run's folder, of a run of before these facts were kept, or damaged.
    """
    if not (workdir / "config.json").is_file():
        raise UserError(
            f"{workdir}: no run (no config.json); expected the --workdir of python -m ssp_jax.main"
        )
    if not (workdir / FACTS).is_file():
        raise UserError(
            f"{workdir}: no {FACTS}, which names its classes. Give the run's own command once "
            "more: it trains nothing twice, and writes that file"
        )
    config = ConfigDict(_with_tuples(_read(workdir / "config.json")))
    names = _read(workdir / FACTS)
    try:
        data = DataSets({}, tuple(names["class_names"]), tuple(names["sound_names"]))
        if (workdir / TOKENISER).exists():
            config.texts.tokeniser = str(workdir / TOKENISER)
        for section, folder in INPUT_WEIGHTS.items():
            if (workdir / folder).exists():
                config[section].weights = str(workdir / folder)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{workdir}: config.json or {FACTS} is damaged ({error})") from error
    return RunFacts(config, data, str(names.get("code", "unknown")))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def _with_tuples(value: Any) -> Any:
    """As the config was: JSON knows lists only."""
    if isinstance(value, dict):
        return {key: _with_tuples(inner) for key, inner in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value
