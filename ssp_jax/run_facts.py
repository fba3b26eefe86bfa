"""What a run's stages need, besides their parameters, to predict where the training data are not.

`facts.json` (names of classes and sounds) and, for networks that read texts, `tokeniser/`, in the
run's folder beside its config.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ssp_jax.data.datasets import DataSets
from ssp_jax.errors import UserError
from ssp_jax.files import write_whole
from ssp_jax.prompts.tokeniser import Tokeniser

FACTS, TOKENISER = "facts.json", "tokeniser"


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """A run's config, and data sets that tell names but hold no clips."""

    config: ConfigDict
    data: DataSets


def keep_facts(workdir: Path, data: DataSets, tokeniser: Tokeniser | None) -> None:
    """Write them into a run's folder, unless they are there. `tokeniser`: of its texts."""
    if not (workdir / FACTS).exists():
        names = {"class_names": data.class_names, "sound_names": data.sound_names}
        write_whole(workdir / FACTS, json.dumps(names, indent=1) + "\n")
    if tokeniser is not None and not (workdir / TOKENISER).exists():
        tokeniser.save(workdir / TOKENISER)


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
    names = _read(workdir / FACTS)
    try:
        data = DataSets({}, tuple(names["class_names"]), tuple(names["sound_names"]))
        if (workdir / TOKENISER).exists():
            config.texts.tokeniser = str(workdir / TOKENISER)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{workdir}: config.json or {FACTS} is damaged ({error})") from error
    return RunFacts(config, data)


def run_config(workdir: Path) -> ConfigDict:
    """The config of a run's folder.

    Raises:
      UserError: not a run's folder, or damaged.
    """
    if not (workdir / "config.json").is_file():
        raise UserError(
            f"{workdir}: no run (no config.json); expected the --workdir of python -m ssp_jax.main"
        )
    return ConfigDict(_with_tuples(_read(workdir / "config.json")))


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
