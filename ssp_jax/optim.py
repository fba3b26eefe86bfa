"""From config to optax: AdamW, the schedule, and which parameters train at which rate."""

import re
from collections.abc import Mapping

import jax
import optax
import optax.contrib
from ml_collections import ConfigDict

from ssp_jax.errors import UserError
from ssp_jax.train_state import path_name

FROZEN = "frozen"
# Norms, biases, position tables and query tables are not pulled to zero.
_NO_DECAY = re.compile(r"(^|/)(bias|scale)$|norm|embed|relative_position|queries|level")


def path_names(tree: Mapping) -> dict:
    """The tree with each leaf replaced by its path, 'encoder/stages/0/norm/scale'."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path_name(path), tree)


def make_schedule(config: ConfigDict, steps: int) -> optax.Schedule:
    """Learning rate per step: linear warm-up, then constant or cosine to `final_share` of it."""
    warmup = min(config.warmup_steps, max(steps - 1, 1))
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


def make_optimizer(
    config: ConfigDict, params: Mapping, steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """AdamW, with Muon for weight matrices on request, as the config's `optim` section says.

    `config.rates` is a sequence of (regex, factor): the first regex found in a parameter's path
    decides the factor on its learning rate; 0 freezes it; unmatched parameters train at 1.
    With `config.muon_lr` > 0 the kernels that are matrices and whose path matches `config.muon_on`
    are trained by Muon (Jordan 2024) at that rate, under the same schedule and factors; everything
    else stays with AdamW at `lr`.

    Args:
      params: arrays or shapes.

    Returns:
      The transformation and AdamW's schedule (for the log).

    Raises:
      UserError: an unknown schedule, or a regex that no parameter matches (a misspelt name would
        silently train what should be frozen).
    """
    schedule = make_schedule(config, steps)
    names = path_names(params)
    rates = [(re.compile(pattern), float(factor)) for pattern, factor in config.rates]
    for pattern, _ in rates:
        if not any(pattern.search(name) for name in jax.tree.leaves(names)):
            raise UserError(
                f"config.optim.rates: no parameter matches {pattern.pattern!r}; "
                f"paths look like {next(iter(jax.tree.leaves(names)))!r}"
            )

    def label(name: str, leaf) -> str:
        factor = next((f for pattern, f in rates if pattern.search(name)), 1.0)
        if factor == 0:
            return FROZEN
        matrix = name.endswith("/kernel") and len(leaf.shape) == 2
        by_muon = config.muon_lr and matrix and re.search(config.muon_on, name)
        return f"{'muon' if by_muon else 'adamw'} {factor}"

    labels = jax.tree.map(label, names, params)
    decay = jax.tree.map(lambda name: not _NO_DECAY.search(name), names)

    def transform(label: str) -> optax.GradientTransformation:
        if label == FROZEN:
            return optax.set_to_zero()
        kind, factor = label.split()[0], float(label.split()[1])
        if kind == "muon":
            factor *= config.muon_lr / config.lr
            return optax.contrib.muon(
                lambda step: factor * schedule(step), weight_decay=config.weight_decay
            )
        return optax.adamw(
            lambda step: factor * schedule(step),
            b1=config.b1,
            b2=config.b2,
            weight_decay=config.weight_decay,
            mask=lambda tree: jax.tree.map(
                lambda leaf, flag: flag if not isinstance(leaf, optax.MaskedNode) else leaf,
                tree,
                decay,
                is_leaf=lambda leaf: isinstance(leaf, optax.MaskedNode),
            ),
        )

    transforms = {label: transform(label) for label in set(jax.tree.leaves(labels))}
    groups = optax.multi_transform(transforms, labels)
    if config.clip_norm:
        return optax.chain(optax.clip_by_global_norm(config.clip_norm), groups), schedule
    return groups, schedule


def count_parameters(config: ConfigDict, params: Mapping) -> tuple[int, int]:
    """(trained, frozen) numbers of parameters under `config.rates`."""
    trained = frozen = 0
    names = jax.tree.leaves(path_names(params))
    for name, leaf in zip(names, jax.tree.leaves(params), strict=True):
        factor = next((f for pattern, f in config.rates if re.search(pattern, name)), 1.0)
        trained, frozen = (trained + leaf.size, frozen) if factor else (trained, frozen + leaf.size)
    return trained, frozen
