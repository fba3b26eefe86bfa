"""What a run's stages need, besides their parameters, to predict where the training data are not.

`facts.json` (names of classes and sounds, version of the code) and, for networks that read texts,
`tokeniser/`, in the run's folder beside its config. In one of `ssp_jax.hub` also the weight folders
`flow_weights/` and `clip_weights/`, where its inputs need them.
"""

import dataclasses
import importlib.metadata
import subprocess
from pathlib import Path

from ml_collections import ConfigDict

from ssp_jax.data.datasets import DataSets
from ssp_jax.errors import UserError
from ssp_jax.json_files import read_sealed, with_tuples, write_sealed
from ssp_jax.prompts.tokeniser import Tokeniser
from tfds_builders.facts import sha256_of

FACTS, TOKENISER = "facts.json", "tokeniser"
# Folders of weights by the section of the config that names them.
INPUT_WEIGHTS = {"flow": "flow_weights", "clip": "clip_weights"}
_VOCABULARY = f"{TOKENISER}/tokenizer.json"
_REMEDY = "Put a copy back, or delete it and give the run's own command once more"


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """A run's config, data sets that tell names but hold no clips, and the code's version."""

    config: ConfigDict
    data: DataSets
    code: str


def keep_facts(workdir: Path, data: DataSets, tokeniser: Tokeniser | None) -> None:
    """Write them into a run's folder, unless they are there. `tokeniser`: of its texts."""
    if tokeniser is not None and not (workdir / TOKENISER).exists():
        tokeniser.save(workdir / TOKENISER)
    if not (workdir / FACTS).exists():
        names = {
            "class_names": data.class_names,
            "sound_names": data.sound_names,
            "code": code_version(),
        }
        if (workdir / _VOCABULARY).exists():
            names[_VOCABULARY] = sha256_of(workdir / _VOCABULARY)
        write_sealed(workdir / FACTS, names)


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
    config = run_config(workdir)
    if not (workdir / FACTS).is_file():
        raise UserError(
            f"{workdir}: no {FACTS}, which names its classes. Give the run's own command once "
            "more: it trains nothing twice, and writes that file"
        )
    names = read_sealed(workdir / FACTS, _REMEDY)
    try:
        data = DataSets({}, tuple(names["class_names"]), tuple(names["sound_names"]))
        if (workdir / TOKENISER).exists() or _VOCABULARY in names:
            _check_vocabulary(workdir / _VOCABULARY, names.get(_VOCABULARY))
            config.texts.tokeniser = str(workdir / TOKENISER)
        for section, folder in INPUT_WEIGHTS.items():
            if (workdir / folder).exists():
                config[section].weights = str(workdir / folder)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{workdir}: config.json or {FACTS} is damaged ({error})") from error
    return RunFacts(config, data, str(names.get("code", "unknown")))


def run_config(workdir: Path) -> ConfigDict:
    """The config of a run's folder.

    Raises:
      UserError: not a run's folder, or damaged.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(
            f"{workdir}: no run (no config.json); expected the --workdir of python -m ssp_jax.main"
        )
    content = read_sealed(path, _REMEDY)
    try:
        return ConfigDict(with_tuples(content))
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}). {_REMEDY}") from error


def _check_vocabulary(path: Path, expected: str | None) -> None:
    """Another vocabulary would give texts other numbers, and nobody would see it."""
    try:
        found = sha256_of(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}). Put a copy back") from error
    if expected not in (None, found):  # older runs kept none
        raise UserError(f"{path}: not as it was written, its SHA-256 differs. Put a copy back")
