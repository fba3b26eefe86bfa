"""The phases of a stage's training: what trains in each, at which rate (method 3.8)."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ssp_jax.errors import UserError
from ssp_jax.optim import Optimizer, make_optimizer, trained_names
from ssp_jax.train_state import StateMaker, seed_key, split_trained, state_maker


@dataclasses.dataclass(frozen=True)
class PhasePlan:
    """Steps `start` .. `end` - 1 of a stage train by `optim`, a stage's section of that name."""

    name: str
    start: int
    end: int
    optim: ConfigDict


@dataclasses.dataclass(frozen=True)
class Phase:
    """A plan with its optimiser.

    Attributes:
      trained: path names of what it trains. learning_rate: step of the stage -> rate.
    """

    plan: PhasePlan
    optimizer: Optimizer
    learning_rate: Callable[[int], float]
    trained: frozenset[str]
    states: StateMaker

    @property
    def trains_encoder(self) -> bool:
        """Whether any parameter of the network's encoder changes."""
        return any(name.startswith("network/encoder/") for name in self.trained)


# config.<stage>.optim.bert -> what of BERT trains, ahead of all other rates.
BERT_RATES = {
    "all": ((r"^network/vta/bert/", 1.0),),
    "adapters": ((r"^network/vta/bert/.*adapter/", 1.0), (r"^network/vta/bert/", 0.0)),
    "frozen": ((r"^network/vta/bert/", 0.0),),
}


def reads_texts(config: ConfigDict, stage: str) -> bool:
    """Tell whether the stage's network has VTA; that of `objects` never does."""
    return (config.model.vta or "none") != "none" and stage != "objects"


def _with_bert(config: ConfigDict, name: str, optim: ConfigDict) -> ConfigDict:
    if optim.bert not in BERT_RATES:
        raise UserError(
            f"config.{name}.optim.bert={optim.bert!r}: expected one of {', '.join(BERT_RATES)}"
        )
    optim = optim.copy_and_resolve_references()
    if reads_texts(config, name):
        optim.rates = (*BERT_RATES[optim.bert], *optim.rates)
    return optim


def plan_phases(config: ConfigDict, name: str) -> list[PhasePlan]:
    """The phases that `config.<name>.phases` asks for.

    - all: one phase, everything that `optim` says.
    - aavs: phase 1 trains what is new, phase 2 the encoder's adapters too, from the best
      parameters of phase 1 and with a fresh optimiser; the sections `phase1`, `phase2` say what
      changes in `optim`.

    In each, `optim.bert` decides on BERT: all of it trains, its adapters, or nothing.

    Raises:
      UserError: another word, a share outside of (0, 1), or nothing to start from.
    """
    stage = config[name]
    if stage.phases == "all":
        return [PhasePlan("", 0, stage.steps, _with_bert(config, name, stage.optim))]
    if stage.phases != "aavs":
        raise UserError(f"config.{name}.phases={stage.phases!r}: expected one of all, aavs")
    if not (config.init_from or stage.init_from):
        raise UserError(
            f"config.{name}.phases=aavs keeps the encoder as it comes, so it needs pretrained "
            "weights: --config.init_from=DIR (made by python -m ssp_jax.weights import). From "
            f"scratch, train everything: --config.{name}.phases=all"
        )
    if not 0 < stage.phase1.share < 1:
        raise UserError(f"config.{name}.phase1.share={stage.phase1.share}: expected 0 < share < 1")
    if stage.steps < 2:
        raise UserError(f"config.{name}.steps={stage.steps}: expected 2 or more, one a phase")
    middle = min(max(round(stage.phase1.share * stage.steps), 1), stage.steps - 1)
    plans = []
    for phase, start, end in (("phase1", 0, middle), ("phase2", middle, stage.steps)):
        optim = stage.optim.copy_and_resolve_references()
        optim.update({"lr": stage[phase].lr, "rates": stage[phase].rates})
        plans.append(PhasePlan(phase, start, end, _with_bert(config, name, optim)))
    return plans


def make_phases(config: ConfigDict, name: str, init, mesh: Mesh) -> list[Phase]:
    """The phases with their optimisers; `init` is key -> params.

    Raises:
      UserError: see `plan_phases`, `trained_names`, `make_optimizer`.
    """
    shapes = jax.eval_shape(init, seed_key(0))
    phases = []
    for plan in plan_phases(config, name):
        trained = trained_names(plan.optim, shapes)
        leaves, _ = split_trained(shapes, trained)
        optimizer = make_optimizer(plan.optim, leaves, plan.end - plan.start)

        def learning_rate(
            step: int, schedule=jax.jit(optimizer.schedule), start=plan.start
        ) -> float:
            return float(jax.device_get(schedule(jax.device_put(np.int32(step - start)))))

        states = state_maker(init, optimizer.tx, trained, mesh, optimizer.joined)
        phases.append(Phase(plan, optimizer, learning_rate, trained, states))
    return phases
