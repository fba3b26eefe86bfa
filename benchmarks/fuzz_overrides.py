"""A config's overrides, drawn at random, as a target of `benchmarks.fuzz`."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssp_jax.command_line import read_config
from ssp_jax.dry_run import dry_run
from ssp_jax.errors import UserError
from ssp_jax.run_folder import STAGES
from tests import tiny_run

_OVERRIDES = (
    *("-1", "0", "1e9", "1e308", "nan", "inf", "-inf", "None", "True", "", "x", "(1,)", "()"),
    *("[1,2]", "{}", "'a'", "9" * 40, "1.5", "../../x", "__import__('os')", "ä", "lambda: 1"),
)

_OF_KIND = {
    int: ("-1", "0", "1", "7", "100000", "2147483648"),
    float: ("-1.0", "0.0", "0.5", "1e300", "nan", "inf", "-inf"),
    tuple: ("()", "('x',)", "(1,)", "(0.0,)", "(1.0,2.0,3.0)", "(nan,inf)", "((1,),)"),
    type(None): ("-1", "0", "7", "0.5", "True", "x"),
}
_SEED = bytes(range(100))  # read, it stands for no override


def make(folder: Path) -> None:
    """Write what is damaged, and means "no override" while it is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "seed").write_bytes(_SEED)


def read(folder: Path) -> Mapping[str, Any]:
    """One override, drawn by what the file was damaged to; there is no number to compare.

    As far as a run comes before it needs data; the network of one stage is built, not compiled.
    """
    content = folder / "seed"
    seed = content.read_bytes() if content.is_file() else b""
    if seed != _SEED:
        rng = random.Random(seed)
        values = _flat(tiny_run.get_config(kind="ssp").to_dict())
        key = rng.choice(sorted(values))
        # In every second case one of the right kind, else it goes no further.
        likely = _OF_KIND.get(type(values[key]), _OVERRIDES)
        change = f"--config.{key}={rng.choice(rng.choice((likely, _OVERRIDES)))}"
        try:
            stage = key.split(".")[0] if key.split(".")[0] in STAGES else rng.choice(STAGES)
            changes = [f"--config.stages={stage}", change]
            config = read_config(f"tests/tiny_run.py:{folder / 'prepared'},ssp", changes)
            paragraphs = dry_run(config, folder / "run")
            next(paragraphs), next(paragraphs)  # the next one compiles
        except UserError as error:
            if key.split(".")[-1] not in str(error):
                raise
            raise UserError(f"config.{key}") from error  # it is named
    return {"": "nothing to compare"}


def _flat(tree: Mapping, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        inner = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{key}.") if inner else {prefix + key: value}
    return flat
