"""What a run reads, by what it holds: kept in the run's folder, and looked at when it goes on.

`inputs.json`: the facts of its data sets, SHA-256 of the files that its config names, and how JAX
draws random numbers. Names and dates of files are not in it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from ssp_jax.data.companions import flow_settings
from ssp_jax.errors import UserError
from ssp_jax.json_files import read_sealed, write_sealed
from ssp_jax.processes import is_first
from ssp_jax.stage import Stage
from tfds_builders.facts import known_by, sha256_of

INPUTS = "inputs.json"
_RANDOM = ("jax_default_prng_impl", "jax_threefry_partitionable")
_REMEDY = "Put a copy back, or delete it and give the run's own command once more"


def run_inputs(config: ConfigDict, stages: Mapping[str, Stage]) -> dict[str, dict[str, Any]]:
    """Return what these stages read, as JSON values: 'data', 'files' and 'random'."""
    data = next(iter(stages.values())).data
    reading = [stage for stage in stages.values() if stage.reads_texts]
    files = {}
    if any(stage.flow_used for stage in stages.values()) and config.flow.weights:
        files["flow.weights"] = flow_settings(config)[0].settings["weights"]
    if clip := next((stage.clip for stage in reading if stage.clip), None):
        files["clip.weights"] = clip["weights"]
    if reading and config.texts.file:
        files["texts.file"] = sha256_of(Path(config.texts.file))
    if reading and config.texts.tokeniser:
        files["texts.tokeniser"] = reading[0].companions.tokeniser.digest()
    return {
        "data": {name: known_by(facts) for name, facts in data.facts.items()},
        "files": files,
        "random": {name: getattr(jax.config, name) for name in _RANDOM},
    }


def known_files(workdir: Path) -> set[str]:
    """Return the keys of the config whose files a run's folder knows by what they hold."""
    path = workdir / INPUTS
    return set(read_sealed(path, _REMEDY)["files"]) if path.exists() else set()


def check_inputs_kept(config: ConfigDict, workdir: Path, inputs: Mapping[str, dict]) -> None:
    """Refuse to go on with other data, files or random numbers than the run began with.

    What its folder says nothing of is not judged: it is of older code, or of another stage.

    Raises:
      UserError: something differs, or what is kept is damaged.
    """
    path = workdir / INPUTS
    if not path.exists():
        return
    kept, end = read_sealed(path, _REMEDY), f"Or use another --workdir than {workdir}"
    for benchmark, facts in inputs["data"].items():
        if differing := _differing(kept["data"].get(benchmark, facts), facts):
            raise UserError(
                f"config.prepared_dir={config.prepared_dir}: {workdir} began with other data of "
                f"{benchmark} (another {', '.join(differing)}). Name those that it began with; a "
                f"copy will do, wherever it lies. {end}"
            )
    for key, digest in inputs["files"].items():
        if kept["files"].get(key, digest) != digest:
            section, name = key.split(".")
            raise UserError(
                f"config.{key}={config[section][name]}: {workdir} began with another, by its "
                f"SHA-256. Name that one; a copy will do. {end}"
            )
    for name, value in inputs["random"].items():
        before = kept["random"].get(name, value)
        if before != value:
            variable = name.upper()
            raise UserError(
                f"{variable}={value}: {workdir} began with {before}, and would go on with other "
                f"random numbers. Set {variable}={before}. {end}"
            )


def _differing(kept: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    # A data set that is not prepared yet has no digests, nor has one of older code.
    unknown = {key for key in ("clips", "files") if not (facts[key] and kept[key])}
    return [key for key, now in facts.items() if key not in unknown and kept.get(key) != now]


def keep_inputs(workdir: Path, inputs: Mapping[str, dict]) -> None:
    """Add to what the folder knows of the run's inputs what it did not know. Process 0 writes it.

    Raises:
      UserError: what is kept is damaged.
    """
    path = workdir / INPUTS
    if not is_first():
        return
    kept = read_sealed(path, _REMEDY) if path.exists() else {}
    both = {part: {**found, **kept.get(part, {})} for part, found in inputs.items()}
    if both != kept:
        write_sealed(path, both)
