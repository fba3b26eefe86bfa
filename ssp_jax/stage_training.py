"""One stage's training: from its checkpoints, given weights or scratch to its best parameters."""

import dataclasses
import functools
import logging
from collections.abc import Callable

import jax
import numpy as np

from ssp_jax.checkpoints import Checkpoints
from ssp_jax.data.batches import Batches
from ssp_jax.data.pipeline import train_batches
from ssp_jax.data.transforms import Augment
from ssp_jax.errors import UserError
from ssp_jax.goodput import Goodput, Speed
from ssp_jax.init_from import given_params
from ssp_jax.kept_features import FeatureStore, keep_features
from ssp_jax.models.sizes import SIZES
from ssp_jax.not_finite import Dump
from ssp_jax.phases import Phase
from ssp_jax.stage import Stage
from ssp_jax.step_trace import StepTrace
from ssp_jax.trackers import Trackers
from ssp_jax.train import Loop, Progress
from ssp_jax.train_state import StateMaker, TrainState, seed_key
from ssp_jax.train_step import Loss, compile_once, make_train_step
from ssp_jax.writers import MetricsWriter

_LOG = logging.getLogger(__name__)


def train_stage(stage: Stage, goodput: Goodput) -> dict:
    """Train, or go on, or return at once what was trained; the best parameters.

    Says at the end where the time went, as `goodput` counts it.
    """
    with Checkpoints(stage.folder / "checkpoints") as checkpoints:
        restored = checkpoints.restore(functools.partial(_states_at, stage))
        state, saved = restored or (_new_state(stage), {"next_batch": 0})
        progress = Progress(**saved.get("loop", {}))
        checkpoints.go_on_from(state.number if restored else -1)
        goodput.go_on_from(progress.seconds)
        trains = state.number < stage.phases[-1].plan.end or not progress.evaluated
        if trains:
            verb = "going on" if restored else "begins"
            _LOG.info("%s: %s at step %d", stage.name, verb, state.number)
        for phase in stage.phases:
            start, end = phase.plan.start, phase.plan.end
            if state.number >= end and progress.evaluated:
                continue
            if state.number == start > 0 and progress.evaluated:
                state = phase.states.restart(state.step, _best(stage, checkpoints, state.params))
            with training_batches(stage, _kept_features(stage, phase, state.params)) as batches:
                batches.set_state(saved)
                state = _run_phase(stage, phase, state, progress, batches, checkpoints, goodput)
                saved = batches.get_state()
        if trains:
            _LOG.info("%s: goodput: %s", stage.name, goodput)
        return _best(stage, checkpoints, state.params)


def _states_at(stage: Stage, step: int) -> StateMaker:
    """Of the phase that ends in this step or has it."""
    return next((p for p in stage.phases if step <= p.plan.end), stage.phases[-1]).states


def check_trained(stage: Stage) -> None:
    """Refuse a stage that others need, but that was not trained to its end before.

    Raises:
      UserError: it was not, or not to its end.
    """
    folder, finished = stage.folder / "checkpoints", False
    if folder.is_dir():
        with Checkpoints(folder, read_only=True) as checkpoints:
            finished = checkpoints.finished(stage.stage.steps)
    if not finished:
        raise UserError(
            f"{stage.folder}: no finished stage {stage.name}, whose masks are needed. Run it "
            f"first (--config.stages={stage.name},avss does both), or name the folder of "
            "one by --config.avss.prompt.stage1=DIR"
        )


def trained_params(stage: Stage) -> dict:
    """The best parameters of a stage that was trained before.

    Raises:
      UserError: it was not, or not to its end.
    """
    check_trained(stage)
    with Checkpoints(stage.folder / "checkpoints", read_only=True) as checkpoints:
        states = stage.phases[-1].states
        if checkpoints.best_step() is None:
            return checkpoints.restore(functools.partial(_states_at, stage))[0].params
        return checkpoints.restore_best(states.shapes.params, states.shardings.params)


def _run_phase(
    stage: Stage,
    phase: Phase,
    state: TrainState,
    progress: Progress,
    batches: Batches,
    checkpoints: Checkpoints,
    goodput: Goodput,
) -> TrainState:
    config, section = stage.config, stage.stage
    name, speed = f"{stage.name} {phase.plan.name}".strip(), Speed()
    loop = Loop(
        train_step=compile_once(phase_step(stage, phase), name, speed),
        batches=batches,
        put=stage.put,
        evaluate=stage.validate if section.val else None,
        score=_selected_by,
        learning_rate=phase.learning_rate,
        checkpoints=checkpoints,
        writer=MetricsWriter(
            stage.folder,
            resume_step=state.number,
            evaluated=progress.evaluated,
            trackers=Trackers(config, stage.folder, state.number),
        ),
        dump=Dump(
            stage.folder / "not_finite",
            stage.data.source(stage.words["train"]["train"]).table.uid,
            {"stage": stage.name, "seed": config.seed},
        ),
        name=name,
        end=phase.plan.end,
        total_steps=section.steps,
        eval_every=section.eval_every,
        eval_first=section.eval_first,
        save_every=60 * config.save_every_minutes,
        log_every=config.log_every,
        max_skipped=config.max_skipped,
        seed=config.seed,
        goodput=goodput,
        speed=speed,
        trace=StepTrace(stage.folder / "profile", **config.profile, name=name),
    )
    try:
        return loop.run(state, progress)
    finally:
        loop.writer.close()


def phase_step(stage: Stage, phase: Phase) -> Callable:
    """The jitted step that trains a phase, see `make_train_step`."""
    config, section = stage.config, stage.stage
    loss = Loss(
        stage.graphdef,
        dtype=config.dtype,
        num_classes=stage.num_classes,
        max_targets=section.max_targets,
        criterion=section.criterion.to_dict(),
        listen=section.listen.to_dict(),
    )
    return make_train_step(
        loss,
        phase.optimizer.tx,
        stage.mesh,
        phase.states.shardings,
        phase.trained,
        joined=phase.optimizer.joined,
        skip=config.max_skipped > 0,
        accumulate=section.accumulate,
        precision=stage.precision,
    )


def _kept_features(stage: Stage, phase: Phase, params: dict) -> FeatureStore | None:
    """Of the training frames, where the config asks for them and the phase can have them."""
    config, plan = stage.config, phase.plan
    if not config.data.kept_features:
        return None
    if phase.trains_encoder:
        _LOG.info("%s %s trains the encoder: reads no kept features", stage.name, plan.name)
        return None
    return keep_features(
        stage.data.source(stage.words["train"]["train"]),
        stage.graphdef,
        params,
        stage.mesh,
        settings={"gelu": config.model.gelu or SIZES[config.model.size]["gelu"]},
        frame_size=stage.spec.frame_size,
        dtype=config.dtype,
        precision=stage.precision,
        kept_in=config.data.kept_features,
        visits=(plan.end - plan.start) * stage.stage.batch_size,
    )


def training_batches(stage: Stage, features: FeatureStore | None = None) -> Batches:
    """The stage's training data, endless; `features`: what a frozen encoder makes of them."""
    config, section, words = stage.config, stage.stage, stage.words["train"]["train"]
    prompt, augment = section.prompt, Augment(**config.data.augment.to_dict())
    return train_batches(
        stage.data.source(words),
        stage.spec,
        batch_size=section.batch_size,
        seed=config.seed,
        augment=augment,
        frames_per_clip=config.data.frames_per_clip or None,
        beside=dataclasses.replace(
            stage.beside(words, ("own", *augment.negatives)), features=features
        ),
        references=(prompt.truth, prompt.predicted),
        max_bad_clips=config.data.max_bad_clips,
        num_workers=config.data.num_workers,
        cache=stage.cache,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def _new_state(stage: Stage) -> TrainState:
    """From given weights, else from scratch."""
    states, key = stage.phases[0].states, seed_key(stage.config.seed)
    params = given_params(stage.config, stage.name, stage.folder, states, key)
    return (
        states.new(key) if params is None else states.restart(jax.device_put(np.int32(0)), params)
    )


def _best(stage: Stage, checkpoints: Checkpoints, params: dict) -> dict:
    """The best parameters by validation; without validation sets the given, last ones."""
    if checkpoints.best_step() is None:
        return params
    _LOG.info("%s: best validation at step %d", stage.name, checkpoints.best_step())
    return checkpoints.restore_best(params, stage.param_shardings)


def _selected_by(values: dict[str, float]) -> float:
    """Return what the best parameters have most of: the mean of all mIoU and F-scores."""
    return float(np.mean([value for name, value in values.items() if "activated" not in name]))
