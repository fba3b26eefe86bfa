"""From config to optax: AdamW, the schedule, and which parameters train at which rate."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import optax
import optax.contrib
from ml_collections import ConfigDict

from ssp_jax.errors import UserError
from ssp_jax.joined_leaves import JoinedLeaves, join_small
from ssp_jax.models.promotion import promoting
from ssp_jax.train_state import path_name

# Of Muon's Newton-Schulz iterations, Jordan's five times: as a table they are one loop, not five
# copies of its body for every matrix, which would be a third of the compiled step.
_MUON_ITERATIONS = ((3.4445, -4.7750, 2.0315),) * 5
# Norms, biases, position tables and query tables are not pulled to zero.
_NO_DECAY = re.compile(r"(^|/)(bias|scale)$|norm|embed|relative_position|queries|level")


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """How leaves are updated.

    Attributes:
      tx: of the arrays that `joined` makes of the leaves. schedule: AdamW's, for the log.
    """

    tx: optax.GradientTransformation
    joined: JoinedLeaves
    schedule: optax.Schedule


def make_schedule(config: ConfigDict, steps: int) -> optax.Schedule:
    """Learning rate per step: linear warm-up, then constant or cosine to `final_share` of it."""
    warmup = min(config.warmup_steps, max(steps - 1, 0))
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(
            0.0, config.lr, warmup, steps, end_value=config.lr * config.final_share
        )
    if config.schedule == "constant":
        if not warmup:  # warmup_constant_schedule would stay at zero
            return optax.constant_schedule(config.lr)
        return optax.warmup_constant_schedule(0.0, config.lr, warmup)
    raise UserError(
        f"config.optim.schedule={config.schedule!r}: expected one of 'cosine', 'constant'"
    )


def ends_late(config: ConfigDict, steps: int) -> bool:
    """Tell whether the rates of a training's steps depend on how many there are.

    Not so where they are constant from a warm-up on that is over before the last step.
    """
    return config.schedule != "constant" or config.warmup_steps > max(steps - 1, 0)


def trained_names(config: ConfigDict, params: Mapping) -> frozenset[str]:
    """Path names of the parameters that train under `config.rates`; see `make_optimizer`.

    Args:
      params: arrays or shapes.

    Raises:
      UserError: a regex that no parameter matches (a misspelt name would silently train what
        should be frozen), or nothing is left to train.
    """
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for pattern, _ in config.rates:
        if not any(re.search(pattern, name) for name in names):
            raise UserError(
                f"optim.rates: no parameter matches {pattern!r}; paths look like {names[0]!r}"
            )
    trained = frozenset(name for name in names if _factor(config, name))
    if not trained:
        raise UserError(f"optim.rates={tuple(config.rates)} freezes every parameter")
    return trained


def _factor(config: ConfigDict, name: str) -> float:
    return next((float(f) for pattern, f in config.rates if re.search(pattern, name)), 1.0)


def make_optimizer(config: ConfigDict, leaves: Mapping[str, Any], steps: int) -> Optimizer:
    """AdamW, with Muon for weight matrices on request, as the config's `optim` section says.

    `config.rates` is a sequence of (regex, factor): the first regex found in a parameter's path
    decides the factor on its learning rate; 0 freezes it; unmatched parameters train at 1.
    With `config.muon_lr` > 0 the kernels that are matrices and whose path matches `config.muon_on`
    are trained by Muon (Jordan 2024) at that rate, under the same schedule and factors; everything
    else stays with AdamW at `lr`.

    Args:
      leaves: what is trained, arrays or shapes by path name (`split_trained`).

    Raises:
      UserError: an unknown schedule.
    """
    schedule = make_schedule(config, steps)

    def kind(name: str, leaf) -> str:
        matrix = name.endswith("/kernel") and len(leaf.shape) == 2
        factor = _factor(config, name)
        if config.muon_lr and matrix and re.search(config.muon_on, name):
            return f"muon {factor}"
        return f"{'adam' if _NO_DECAY.search(name) else 'adamw'} {factor}"

    kinds = {name: kind(name, leaf) for name, leaf in leaves.items()}
    # Muon needs its matrices as they are.
    joined = join_small(leaves, {k: v for k, v in kinds.items() if not v.startswith("muon")})
    kind_of_array = {k: v for k, v in kinds.items() if k not in joined.shapes}
    kind_of_array |= {array: array for array in joined.names}

    def transform(kind: str) -> optax.GradientTransformation:
        name, factor = kind.split()[0], float(kind.split()[1])
        if name == "muon":
            factor *= config.muon_lr / config.lr
            return optax.contrib.muon(
                lambda step: factor * schedule(step),
                ns_coeffs=_MUON_ITERATIONS,
                weight_decay=config.weight_decay,
            )
        return optax.adamw(
            lambda step: factor * schedule(step),
            b1=config.b1,
            b2=config.b2,
            weight_decay=0.0 if name == "adam" else config.weight_decay,
        )

    groups = optax.multi_transform(
        {kind: transform(kind) for kind in sorted(set(kinds.values()))}, kind_of_array
    )
    if config.clip_norm:
        groups = optax.chain(optax.clip_by_global_norm(config.clip_norm), groups)

    # Optax takes whole steps to be numbers like any other, which JAX's strict mode would refuse.
    tx = groups._replace(update=promoting(groups.update))
    return Optimizer(tx, joined, promoting(schedule))
