"""What a run's folder holds besides its stages: the config it belongs to, and its results."""

import json
from pathlib import Path

import jax
from ml_collections import ConfigDict

from ssp_jax.config import matmul_precision
from ssp_jax.config_ranges import check_ranges, flat
from ssp_jax.data.sounds import negative_sounds
from ssp_jax.data.transforms import Augment
from ssp_jax.errors import UserError
from ssp_jax.files import check_writable, write_whole
from ssp_jax.flow.estimators import NAMES as ESTIMATORS
from ssp_jax.flow.mask import CHOICES, check_choices
from ssp_jax.going_on import longer_stages, refused, with_steps
from ssp_jax.json_files import read_sealed, with_tuples, write_sealed
from ssp_jax.kept_features import check_kept_features
from ssp_jax.losses.post_mask import READINGS
from ssp_jax.models.sizes import SIZES
from ssp_jax.models.vta import VARIANTS
from ssp_jax.optim import make_schedule
from ssp_jax.phases import plan_phases
from ssp_jax.processes import is_first
from ssp_jax.protocols import get_protocol
from ssp_jax.run_inputs import known_files
from ssp_jax.trackers import tracker_names
from ssp_jax.train_step import DTYPES

# In the order they run: what is visible, where it sounds, what sounds.
STAGES = ("objects", "avs", "avss")
_OTHER_WORKDIR = "Put a copy back, or use another --workdir"
PROMPT_SOURCES = ("none", "stage1", "flow", "self", "heard", "truth")


def stage_names(config: ConfigDict) -> list[str]:
    """The stages that `config.stages` asks for, as 'avs,avss', in their order.

    Raises:
      UserError: an unknown one, or none.
    """
    known = [name for name in STAGES if name in config]
    asked = [name.strip() for name in config.stages.split(",") if name.strip()]
    if not asked or not set(asked) <= set(known):
        raise UserError(
            f"config.stages={config.stages!r}: expected one or more of {', '.join(known)}, "
            "separated by commas"
        )
    return [name for name in known if name in asked]


def check_config(config: ConfigDict, *, trains: bool = True) -> None:
    """Choices that can be judged before any data are prepared.

    Args:
      trains: False for who only scores; what a training alone needs may then be missing.

    Raises:
      UserError: a number below its range, an unknown stage, protocol, size, dtype, schedule, plan
        of phases, source of mask prompts, flow mask, post-mask, VTA, negative sound, tracker,
        precision of products or of kept features, or an impossible augmentation.
    """
    names = stage_names(config)
    check_ranges(config)
    get_protocol(config.protocol)
    negative_sounds(config.negative_sounds)
    tracker_names(config.trackers)
    for key, value, known in (
        ("model.size", config.model.size, SIZES),
        ("dtype", config.dtype, DTYPES),
        ("model.vta", config.model.vta or "none", VARIANTS),
        ("flow.estimator", config.flow.estimator, ESTIMATORS),
        *((f"{name}.prompt.source", config[name].prompt.source, PROMPT_SOURCES) for name in names),
    ):
        if value not in known:
            raise UserError(f"config.{key}={value!r}: expected one of {', '.join(known)}")
    _check_precision(config)
    Augment(**config.data.augment.to_dict())
    check_kept_features(config)
    check_choices(**{name: config.flow[name] for name in CHOICES})
    for name in names:
        for plan in plan_phases(config, name) if trains else ():
            make_schedule(plan.optim, plan.end - plan.start)
        prompt = config[name].prompt
        if not 0 <= prompt.truth + prompt.predicted <= 1 or min(prompt.truth, prompt.predicted) < 0:
            raise UserError(
                f"config.{name}.prompt: truth={prompt.truth} and predicted={prompt.predicted} are "
                "probabilities of two of three cases: expected 0 or more each, 1 at most together"
            )
        if prompt.source == "flow" and not prompt.premask:
            raise UserError(
                f"config.{name}.prompt.source=flow: a prompt from flow alone is a pre-mask; set "
                f"config.{name}.prompt.premask=True"
            )
        if prompt.source == "none" and prompt.premask:
            raise UserError(
                f"config.{name}.prompt.premask=True: needs config.{name}.prompt.source, which says "
                "what stands for the ground truth in prediction: flow, self, heard or stage1"
            )
        if config[name].criterion.post_mask not in READINGS:
            raise UserError(
                f"config.{name}.criterion.post_mask={config[name].criterion.post_mask!r}: expected "
                f"one of {', '.join(READINGS)}"
            )
    if "avs" in names and config.avs.prompt.source == "stage1":
        raise UserError("config.avs.prompt.source: the first stage has none before it; use none")


def _check_precision(config: ConfigDict) -> None:
    word = matmul_precision(config)
    try:
        with jax.default_matmul_precision(word):
            pass
    except ValueError as error:
        raise UserError(
            f"config.matmul_precision={word!r}: expected default, high, highest, bfloat16, "
            "tensorfloat32, float32, or a name of jax.lax.DotAlgorithmPreset"
        ) from error


def check_run(config: ConfigDict, workdir: Path) -> set[str]:
    """Look whether a run of this config can begin or go on in the folder; writes nothing.

    What decides nothing about the numbers of a training may differ, see `going_on`: a stage can be
    run alone in the folder of a run of both, a run can go on on other devices, with its data in
    another place, and for more steps where these are the same training.

    Returns:
      Keys, 'avs.steps', in which the run becomes longer than the one that is there.

    Raises:
      UserError: the folder holds a run of another config, naming the keys that differ, or a damaged
        one; it cannot be written.
    """
    path = workdir / "config.json"
    if not path.exists():
        check_writable(workdir, f"--workdir={workdir}")
        return set()
    old, new = read_sealed(path, _OTHER_WORKDIR), json.loads(config.to_json(sort_keys=True))
    old.setdefault("matmul_precision", "default")  # of older code
    both = flat(old), flat(new)
    pairs = {key: tuple(f.get(key) for f in both) for key in differing_keys(old, new)}
    differing = refused(pairs, known_files(workdir))
    longer, reasons = longer_stages(
        ConfigDict(with_tuples(old)), config, stage_names(config), differing, workdir
    )
    if reasons:
        raise UserError("\n".join(reasons))
    texts = differing_keys(old, new)
    if others := [key for key in differing if key not in longer]:
        shown = ", ".join("{}: {} there, {} now".format(key, *texts[key]) for key in others[:5])
        raise UserError(
            f"{workdir} holds a run of another config ({shown}). Use another --workdir, or the "
            "same config to go on"
        )
    return longer


def check_workdir(config: ConfigDict, workdir: Path) -> None:
    """Keep the config in the folder; refuse a folder of another config, see `check_run`.

    Where a stage shall become longer, its results of before are removed: they were those of another
    network. Of several processes the first has to be done before the others ask.

    Raises:
      UserError: see `check_run`; not every process sees the folder.
    """
    path = workdir / "config.json"
    longer = check_run(config, workdir)
    if path.exists():
        if longer and is_first():
            stages = {key.split(".")[0] for key in longer}
            _forget_results(workdir, {test for name in stages for test in config[name].test})
            write_sealed(path, with_steps(read_sealed(path, _OTHER_WORKDIR), config, longer))
        return
    if not is_first():
        raise UserError(
            f"--workdir={workdir}: process {jax.process_index()} does not find there what process "
            "0 wrote. Name a folder that all of the run's machines share"
        )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_sealed(path, json.loads(config.to_json(sort_keys=True)))
    except OSError as error:
        raise UserError(f"--workdir={workdir}: cannot be written ({error})") from error


def _forget_results(workdir: Path, tests: set[str]) -> None:
    path = workdir / "results.json"
    if path.exists():
        kept = {name: result for name, result in read_results(path).items() if name not in tests}
        write_whole(path, json.dumps(kept, indent=2) + "\n")


def differing_keys(one: dict, two: dict) -> dict[str, tuple[str, str]]:
    """'a.b' -> both values as texts, of the keys of two configs (from JSON) that differ."""
    both = flat(one), flat(two)
    keys = sorted(both[0].keys() | both[1].keys())
    return {
        key: tuple(repr(f[key]) if key in f else "no such key" for f in both)
        for key in keys
        if both[0].get(key) != both[1].get(key)
    }


def read_results(path: Path) -> dict:
    """results.json of a run.

    Raises:
      UserError: it cannot be read.
    """
    return read_sealed(path, "Delete it, and the same command writes it anew")


def write_results(path: Path, results: dict) -> None:
    """results.json, atomically; what it holds of other test sets stays. Process 0 writes it.

    Raises:
      UserError: what is there cannot be read.
    """
    if not is_first():
        return
    kept = read_results(path) if path.exists() else {}
    write_whole(path, json.dumps(kept | results, indent=2) + "\n")
