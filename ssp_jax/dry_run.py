"""What a run would do, without doing it: data, networks, and what a step of each phase needs."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ssp_jax.batch import BACKBONE, AVBatch, fake_batch
from ssp_jax.clip_tokens import lacking_clip_tokens, token_shape
from ssp_jax.data.companions import Companions, flow_settings
from ssp_jax.data.datasets import DataSets, find_datasets, parse_word
from ssp_jax.evaluation import is_going_on, open_evaluation
from ssp_jax.flops import step_flops
from ssp_jax.flow.store import lacking_flow
from ssp_jax.init_from import starting_weights
from ssp_jax.kept_features import feature_shapes
from ssp_jax.phases import Phase
from ssp_jax.prompts.texts import NO_TEXTS
from ssp_jax.prompts.tokeniser import OWN_VOCABULARY
from ssp_jax.run import open_stages
from ssp_jax.run_folder import check_run
from ssp_jax.run_inputs import check_inputs_kept, run_inputs
from ssp_jax.stage import Stage
from ssp_jax.stage_training import phase_step
from ssp_jax.start_checks import check_beginnings, check_jax, check_no_evaluation
from ssp_jax.summary import parameter_table
from ssp_jax.train_state import path_name, seed_key
from ssp_jax.train_step import step_cost
from tfds_builders.facts import DatasetFacts
from tfds_builders.prepare import GENERATED


def dry_run(config: ConfigDict, workdir: Path) -> Iterator[str]:
    """Paragraphs about a run of this config, each as soon as it is known.

    Compiles every phase's step for the devices that are here. Prepares no data, reads no weights,
    and writes nothing, but an index of the clips beside data that are prepared.

    Raises:
      UserError: as the run itself would, as far as that shows without data.
    """
    check_jax(config)
    there = (workdir / "config.json").exists()
    check_no_evaluation(workdir)
    check_run(config, workdir)
    stages = open_stages(config, workdir, find_datasets, _DryCompanions)
    check_beginnings(config, stages)
    check_inputs_kept(config, workdir, run_inputs(config, stages))
    yield _data_lines(config, next(iter(stages.values())).data)
    for stage in stages.values():
        yield "\n".join(_stage_lines(stage))
        for phase in stage.phases:
            yield _phase_line(stage, phase)
    state = "holds this run, which would go on" if there else "would be new"
    yield f"dry run: nothing was prepared, trained or written; {workdir} {state}"


def evaluation_dry_run(
    config: ConfigDict, weights: Sequence[Path], workdir: Path, splits: Sequence[str]
) -> Iterator[str]:
    """Paragraphs about an evaluation of these weights, each as soon as it is known.

    Reads the weights and compiles the prediction. Prepares no data and writes nothing, but an index
    of the clips beside data that are prepared.

    Raises:
      UserError: as the evaluation itself would, as far as that shows without data.
    """
    opened = open_evaluation(config, weights, workdir, splits, find_datasets, _DryCompanions)
    there = is_going_on(opened)
    yield _data_lines(config, next(iter(opened.stages.values())).data)
    for name, stage in opened.stages.items():
        lines = [
            f"stage {name}: size {config.model.size}, input {stage.spec.frame_size} px, "
            f"{config.dtype}, protocol {config.protocol} at {stage.spec.label_size} px, from "
            + ",".join(map(str, opened.sources[name]))
        ]
        if name not in opened.sets:
            lines.append("  is not scored; its masks prompt the other")
        for key, words in opened.sets.get(name, {}).items():
            known = _counts(stage, words) if _is_prepared(words, stage.data) else ["not prepared"]
            lines.append(f"  {key}, {words}: {', '.join(known)}")
        lines.append(parameter_table(stage.param_shapes, {}))
        cost = _cost(stage.predict.trace(stage.param_shapes, batch_shapes(stage)))
        lines.append(
            f"  a batch of {stage.stage.batch_size} frames: {cost} "
            f"({stage.mesh.size} x {jax.devices()[0].device_kind})"
        )
        yield "\n".join(lines)
    state = "holds this evaluation, which would go on" if there else "would be new"
    yield f"dry run: nothing was prepared, scored or written; {workdir} {state}"


class _DryCompanions(Companions):
    """Those of a run that makes none; of data that are not prepared nothing is known."""

    def __init__(self, config: ConfigDict, data: DataSets, words: Sequence[str]):
        super().__init__(config, data, [word for word in words if _is_prepared(word, data)])

    def _make_tokeniser(self, path: Path) -> SimpleNamespace:
        return SimpleNamespace(name=str(path), vocabulary_size=OWN_VOCABULARY)


def _is_prepared(words: str, data: DataSets) -> bool:
    return all(data.folders[parse_word(part)[0]].exists() for part in words.split("+"))


def _data_lines(config: ConfigDict, data: DataSets) -> str:
    facts = data.facts.items()
    return "\n".join(["data", *(_data_line(config, n, data.folders[n], f) for n, f in facts)])


def _data_line(config: ConfigDict, benchmark: str, folder: Path, facts: DatasetFacts) -> str:
    splits = ", ".join(f"{name} {count}" for name, count in facts.splits.items())
    how = "prepared in"
    if not folder.exists():
        origin = "generate it" if benchmark in GENERATED else f"prepare {config.data_dir}"
        how = f"not prepared yet: the run would {origin} into"
    return f"  {benchmark}: {how} {folder}; clips: {splits}"


def _stage_lines(stage: Stage) -> Iterator[str]:
    config, params = stage.config, stage.phases[0].states.shapes.params
    start = starting_weights(config, stage.name) or "scratch"
    yield (
        f"stage {stage.name}: size {config.model.size}, input {stage.spec.frame_size} px, "
        f"{config.dtype}, from {start}"
    )
    for use, sets in stage.words.items():
        for name, words in sets.items():
            known = _counts(stage, words) if _is_prepared(words, stage.data) else ["not prepared"]
            yield f"  {use if name == use else f'{use} {name}'}, {words}: {', '.join(known)}"
    if stage.reads_texts and isinstance(stage.companions.tokeniser, SimpleNamespace):
        yield (
            "  vocabulary: to be made of the texts' own words; counted here as "
            f"{OWN_VOCABULARY} tokens, the most it can have"
        )
    yield parameter_table(params, {p.plan.name or "trained": p.trained for p in stage.phases})


def _counts(stage: Stage, words: str) -> Iterator[str]:
    source, config = stage.data.source(words), stage.config
    frames = int(source.table.num_frames.sum()), int(source.table.num_annotated.sum())
    yield f"{len(source)} clips, {frames[0]} frames, {frames[1]} annotated"
    if stage.flow_used:
        estimator, size, _ = flow_settings(config)
        yield _to_do("flow", lacking_flow(source, estimator, size), len(source))
    if stage.clip:
        lacking = lacking_clip_tokens(source, Path(config.clip.weights))
        yield _to_do("CLIP's tokens", lacking, len(source))
    if stage.reads_texts and config.texts.file:
        pairs = stage.companions.plain_texts(words, range(len(source)))
        yield f"texts of {sum(pair != NO_TEXTS for pair in pairs)} from {config.texts.file}"
    elif stage.reads_texts:
        yield "texts its own" if source[0].texts != NO_TEXTS else "no texts"
    if stage.stage.prompt.source == "stage1":
        yield "masks of stage avs to predict"


def _cost(traced: jax.stages.Traced) -> str:
    compiled = traced.lower().compile()
    return step_cost(compiled, step_flops(traced, compiled))


def _to_do(what: str, lacking: int, total: int) -> str:
    return f"{what} of {lacking} clips to compute" if lacking else f"{what} of all {total}"


def _phase_line(stage: Stage, phase: Phase) -> str:
    plan, params = phase.plan, phase.states.shapes.params
    sizes = {path_name(p): x.size for p, x in jax.tree_util.tree_leaves_with_path(params)}
    trained = sum(sizes[name] for name in phase.trained)
    inputs = (
        phase.states.shapes,
        batch_shapes(stage, phase),
        jax.eval_shape(lambda: seed_key(0)),
        0,
    )
    cost = _cost(phase_step(stage, phase).trace(*inputs))
    return (
        f"  {f'{stage.name} {plan.name}'.strip()}: {plan.end - plan.start} steps of "
        f"{stage.stage.batch_size} frames; {trained / 1e6:.2f} M parameters trained, "
        f"{(sum(sizes.values()) - trained) / 1e6:.2f} M frozen; a step: {cost} "
        f"({stage.mesh.size} x {jax.devices()[0].device_kind})"
    )


def batch_shapes(stage: Stage, phase: Phase | None = None) -> AVBatch:
    """Shapes and types of the phase's training batches, or of batches to predict."""
    spec, config, size = stage.spec, stage.config, stage.stage.batch_size
    batch = fake_batch(
        size,
        frame_size=spec.frame_size,
        label_size=spec.label_size,
        num_classes=stage.num_classes,
        num_sounds=len(spec.sound_names),
        reference=spec.reference,
        flow_mask=spec.flow_mask,
        text_length=spec.text_length,
        visual_tokens=token_shape(stage.clip) if stage.clip else None,
    )
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
    if phase is None or not config.data.kept_features or phase.trains_encoder:
        return batch
    maps = feature_shapes(stage.graphdef, phase.states.shapes.params, spec.frame_size)
    dtype = jnp.dtype(config.data.kept_features)
    kept = [jax.ShapeDtypeStruct((size, *shape), dtype) for shape in maps]
    return dataclasses.replace(batch, **dict(zip(BACKBONE, kept, strict=True)))
