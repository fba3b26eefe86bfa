"""What may differ from the config that a run began with, where it goes on."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ssp_jax.checkpoints import has_begun
from ssp_jax.config import OF_THE_MACHINE
from ssp_jax.optim import ends_late
from ssp_jax.phases import PhasePlan, plan_phases

# Regexes on keys that decide nothing about the numbers of a training.
_MAY_DIFFER = (
    *map(re.escape, OF_THE_MACHINE),
    # What is trained now, scored and shown at the end, or tolerated.
    r"stages|negative_sounds|report|save_masks|\w+\.test\..*|max_skipped|data\.max_bad_clips",
    # Data are known by what they hold, see `run_inputs`.
    r"allow_missing",
    # The same step in less memory, up to rounding.
    r"\w+\.accumulate|model\.remat",
    # Read by `ssp_jax.prompts` alone.
    r"texts\.wordings\..*",
)
# Names of files and folders: they may be spelt in another way.
_PATHS = re.compile(
    r"(\w+\.)?init_from|\w+\.prompt\.stage1|flow\.weights|clip\.weights|texts\.(file|tokeniser)"
)
Differences = dict[str, tuple[Any, Any]]  # key -> the value there and the value now


def refused(differing: Differences, known: set[str]) -> Differences:
    """Return what of the differences between two configs no run may go on with.

    Args:
      known: keys of files that are known by what they hold, and may have other names.
    """
    return {
        key: pair
        for key, pair in differing.items()
        if not any(re.fullmatch(pattern, key) for pattern in _MAY_DIFFER)
        and not (key in known and all(pair))
        and not (_PATHS.fullmatch(key) and _same_paths(*pair))
    }


def _same_paths(one: Any, other: Any) -> bool:
    """Tell whether two values, perhaps several paths with commas between, name the same files."""
    if not isinstance(one, str) or not isinstance(other, str):
        return False
    return [_resolved(word) for word in one.split(",")] == [
        _resolved(word) for word in other.split(",")
    ]


def _resolved(word: str) -> str:
    path = Path(word.strip()).expanduser()
    return str(path.resolve()) if word.strip() and path.exists() else word.strip()


def longer_stages(
    old: ConfigDict, new: ConfigDict, names: list[str], differing: Differences, workdir: Path
) -> tuple[set[str], list[str]]:
    """Judge the stages whose number of steps differs.

    Args:
      old, new: configs, alike but for what may differ and the keys in `differing`.
      names: of the stages that the run is to train.

    Returns:
      The keys in `differing` if all of it makes stages longer, and for each stage why it cannot.
    """
    keys = {
        name: {f"{name}.steps", f"{name}.phase1.share"} & differing.keys()
        for name in names
        if f"{name}.steps" in differing
    }
    if differing.keys() - set().union(*keys.values()):
        return set(), []  # what else differs comes first
    reasons = {name: _why_not(old, new, name, workdir) for name in keys}
    if any(reasons.values()):
        return set(), [reason for reason in reasons.values() if reason]
    return set().union(*keys.values()), []


def _why_not(old: ConfigDict, new: ConfigDict, name: str, workdir: Path) -> str:
    """Say why a stage cannot go on to its new number of steps; '' where it can."""
    key, steps = f"config.{name}.steps={new[name].steps}", old[name].steps
    anew = (
        f"To train on from its parameters, start another run: --workdir=NEW "
        f"--config.{name}.init_from={workdir / name}"
    )
    if new[name].steps < steps:
        return f"{key}: it was begun with {steps}, and cannot go on with fewer. {anew}"
    before, after = plan_phases(old, name), plan_phases(new, name)
    if len(before) > 1 and before[0].end != after[0].end:
        share = before[0].end / new[name].steps
        return (
            f"{key}: its first phase would end at step {after[0].end}, not {before[0].end}; "
            f"--config.{name}.phase1.share={share!r} leaves it where it was"
        )
    if not all(map(_goes_on, before, after)):
        return (
            f"{key}: the learning rate of {steps} steps falls to their end (or rises until then), "
            f"so that more steps are another training, not a longer one. {anew}"
        )
    later = [
        other
        for other in ("avs", "avss")
        if other in new and other != name and has_begun(workdir / other / "checkpoints")
        if _depends(new[other], name)
    ]
    if later:
        places = ", ".join(str(workdir / other) for other in later)
        return (
            f"{key}: stage {', '.join(later)} was trained from the stage as it is. Delete {places} "
            f"to train it anew from the longer one, or use another --workdir"
        )
    return ""


def _goes_on(before: PhasePlan, after: PhasePlan) -> bool:
    """Tell whether a phase is the same up to the end that it had."""
    same = before.start == after.start and _json(before.optim) == _json(after.optim)
    if not same or before.end == after.end:
        return same
    return not ends_late(before.optim, before.end - before.start)


def _json(optim: ConfigDict) -> Any:
    return json.loads(optim.to_json(sort_keys=True))


def _depends(stage: ConfigDict, name: str) -> bool:
    prompted = name == "avs" and stage.prompt.source == "stage1" and not stage.prompt.stage1
    return prompted or name in [word.strip() for word in stage.init_from.split(",")]


def with_steps(stored: Mapping[str, Any], config: ConfigDict, keys: set[str]) -> dict[str, Any]:
    """Return a config's JSON object with the values that these keys, 'a.b', have now."""
    changed = json.loads(json.dumps(stored))
    for key in keys:
        *sections, last = key.split(".")
        there, now = changed, config
        for section in sections:
            there, now = there[section], now[section]
        there[last] = now[last]
    return changed
