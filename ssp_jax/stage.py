"""One training and its evaluation: from a stage's config to results."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ssp_jax.checkpoints import Checkpoints
from ssp_jax.data.companions import Companions
from ssp_jax.data.datasets import DataSets, read_spec, scored_word
from ssp_jax.data.mask_store import MaskStore
from ssp_jax.data.pipeline import Batches, eval_batches, train_batches
from ssp_jax.data.reader import Beside, FrameCache
from ssp_jax.data.transforms import Augment
from ssp_jax.errors import UserError
from ssp_jax.evaluators.segmentation import SegmentationEvaluator
from ssp_jax.init_from import given_params
from ssp_jax.kept_features import FeatureStore, keep_features
from ssp_jax.models.network import TrainedNetwork
from ssp_jax.models.sizes import SIZES
from ssp_jax.models.ssp import OWN_REFERENCES
from ssp_jax.not_finite import Dump
from ssp_jax.phases import Phase, make_phases, reads_texts
from ssp_jax.prompts.tokeniser import check_vocabulary
from ssp_jax.protocols import get_protocol
from ssp_jax.sharding import make_mesh, put_batch
from ssp_jax.summary import parameter_table
from ssp_jax.train import Loop, Progress
from ssp_jax.train_state import StateMaker, TrainState, split_model
from ssp_jax.train_step import compile_once, make_loss, make_predict, make_train_step
from ssp_jax.writers import MetricsWriter

# config.<stage>.prompt.source -> what the reference is in prediction, see `FrameReader.read`.
REFERENCES = {
    "none": "empty",
    "flow": "empty",
    "stage1": "stage1",
    "self": "own",
    "heard": "own",
    "truth": "truth",
}
_LOG = logging.getLogger(__name__)


def stage_words(config: ConfigDict, name: str) -> dict[str, dict[str, str]]:
    """'benchmark:split' words by use ('train', 'val', 'test') and name in results.

    As the protocol reads them, see `scored_word`. Several words of one set are joined by '+'.
    """
    stage, protocol = config[name], get_protocol(config.protocol)
    words = {"train": {"train": "+".join(stage.train)}, "val": stage.val, "test": stage.test}
    if name != "avs":  # classes have one reading
        return {use: dict(sets) for use, sets in words.items()}
    return {
        use: {key: scored_word(word, protocol) for key, word in sets.items()}
        for use, sets in words.items()
    }


@dataclasses.dataclass
class Stage:
    """Everything of one stage that does not change in training.

    `avs` is binary, `avss` names classes. `objects` segments everything visible, silent things too,
    by maps that only the built-in benchmark has, and learns which classes it hears: it stands for
    the pretrained weights of AAVS and SSP, and reads no texts.

    Attributes:
      config: the run's. name: 'objects', 'avs' or 'avss', a key of it. folder: of its files.
      companions: what lies beside the run's clips; of this stage's alone, if not given.
      masks_of: (words, sounds) -> the masks that stage 1 predicted for these clips, where this
        stage is prompted with them; to be set before training and scoring.
    """

    config: ConfigDict
    name: str
    data: DataSets
    folder: Path
    companions: Companions | None = None
    masks_of: Callable[[str, str], MaskStore] | None = None

    def __post_init__(self):
        config, stage = self.config, self.config[self.name]
        self.stage, self.binary = stage, self.name == "avs"
        self.words = stage_words(config, self.name)
        if self.companions is None:
            words = [word for sets in self.words.values() for word in sets.values()]
            self.companions = Companions(config, self.data, words)
        self.prompted = stage.prompt.source != "none"
        self.reads_texts = reads_texts(config, self.name)
        reads_clip = self.reads_texts and config.model.vta_visual == "clip"
        self.clip = self.companions.clip_facts if reads_clip else None
        self.flow_used = stage.prompt.premask or stage.criterion.post_mask != "none"
        self.class_names = ("background", "sounding") if self.binary else self.data.class_names
        self.num_classes = len(self.class_names)
        self.protocol = get_protocol(config.protocol)
        self.mesh: Mesh = make_mesh(**config.mesh.to_dict())
        self.spec = read_spec(
            config,
            self.data,
            self.protocol,
            binary=self.binary,
            labels_from="objects" if self.name == "objects" else "labels",
            reference=self.prompted,
            flow_mask=self.flow_used,
            text_length=self.config.texts.max_length if self.reads_texts else 0,
            visual_tokens=self.clip is not None,
        )
        self.cache = FrameCache(config.data.cache_mb * 2**20)
        self.evaluator = SegmentationEvaluator(self.protocol, self.binary, self.num_classes)
        self._build()

    def _build(self) -> None:
        config, stage = self.config, self.stage
        overrides = {k: v for k, v in config.model.items() if k != "size" and v is not None}
        if stage.decoder_adapter is not None:
            overrides["decoder_adapter"] = stage.decoder_adapter

        if self.name == "objects":
            overrides |= {"vta": "none", "decoder_trains_features": True}
        if self.reads_texts:
            self._fit_bert(overrides)
        if self.clip:
            self._fit_clip(overrides)
        source = stage.prompt.source
        prompts = {
            "mask_prompt": self.prompted,
            "premask": stage.prompt.premask,
            "own_reference": source if source in OWN_REFERENCES else "none",
            "post_mask_head": stage.criterion.post_mask == "head",
        }

        def make_model(rngs: nnx.Rngs) -> TrainedNetwork:
            return TrainedNetwork(
                self.num_classes,
                size=config.model.size,
                num_queries=stage.num_queries,
                num_sounds=len(self.data.sound_names),
                listen=stage.listen,
                overrides=overrides | prompts,
                rngs=rngs,
            )

        try:
            self.graphdef, init = split_model(make_model)
        except ValueError as error:
            raise UserError(f"config.model: {error}") from error
        self.phases = make_phases(config, self.name, init, self.mesh)
        shapes, self.shardings = self.phases[0].states.shapes, self.phases[0].states.shardings
        trained = {phase.plan.name or "trained": phase.trained for phase in self.phases}
        _LOG.info(
            "%s: size %s, input %d px, %s, %d device%s\n%s",
            *(self.name, config.model.size, self.spec.frame_size, config.dtype, self.mesh.size),
            *("" if self.mesh.size == 1 else "s", parameter_table(shapes.params, trained)),
        )
        self.predict = self.make_predict(self.spec.label_size)

    def _fit_bert(self, overrides: dict) -> None:
        """The vocabulary is that of the tokeniser, unless the size or the config has its own."""
        config, tokeniser = self.config, self.companions.tokeniser
        given = SIZES[config.model.size] | overrides
        if "bert_vocabulary" in given:
            check_vocabulary(tokeniser, given["bert_vocabulary"], "config.model.bert_vocabulary")
        else:
            overrides["bert_vocabulary"] = tokeniser.vocabulary_size
        if given["bert_length"] < config.texts.max_length:
            raise UserError(
                f"config.texts.max_length={config.texts.max_length}: BERT has positions for "
                f"{given['bert_length']} tokens (config.model.bert_length)"
            )

    def _fit_clip(self, overrides: dict) -> None:
        """The width of CLIP's tokens is that of its weights."""
        width = self.clip["model"]["width"]
        if overrides.setdefault("clip_width", width) != width:
            raise UserError(
                f"config.model.clip_width={overrides['clip_width']}: the tokens of "
                f"{self.config.clip.weights} have width {width}; leave clip_width out"
            )

    def make_predict(self, size: int) -> Callable:
        """`train_step.make_predict` at another scored size."""
        return make_predict(
            self.graphdef, self.mesh, self.shardings.params, size, self.config.dtype
        )

    def put(self, batch):
        """A host batch on the devices."""
        return put_batch(self.mesh, batch)

    def reads(self) -> dict:
        """Of the config what decides on the inputs of a prediction, besides frames and sounds."""
        prompt, config = self.stage.prompt, self.config
        reads = {"source": prompt.source, "premask": prompt.premask}
        if self.flow_used:
            reads["flow"] = config.flow.to_dict()
        if self.spec.text_length:
            reads["texts"] = config.texts.to_dict()
        if self.clip:
            reads["clip"] = self.clip
        return reads

    def beside(self, words: str, sounds: Sequence[str]) -> Beside:
        """What lies beside the clips of 'benchmark:split' words, what stage 1 predicts by each of
        these sounds included; made where it is not there yet."""
        by_stage1 = self.stage.prompt.source == "stage1"
        return Beside(
            masks={kind: self.masks_of(words, kind) for kind in sounds} if by_stage1 else None,
            flow_masks=self.companions.flow_masks(words) if self.flow_used else None,
            texts=self.companions.texts(words) if self.spec.text_length else None,
            visual_tokens=self.companions.visual_tokens(words) if self.clip else None,
        )

    def batches(self, words: str, sounds: str = "own") -> Batches:
        """Evaluation batches of 'benchmark:split' words; `sounds` as in `eval_batches`."""
        return eval_batches(
            self.data.source(words),
            self.spec,
            batch_size=self.stage.batch_size,
            sounds=sounds,
            beside=self.beside(words, (sounds,)),
            reference=REFERENCES[self.stage.prompt.source],
            seed=self.config.seed,
            num_workers=self.config.data.num_workers,
            cache=self.cache,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def score(self, params: dict, words: str, sounds: str = "own") -> dict[str, float]:
        """{"miou": ..., "fscore": ..., "activated": ...} of a data set."""
        with self.batches(words, sounds) as batches:
            return dict(self.evaluator.run(self.predict, params, batches, self.put))

    def validate(self, params: dict) -> dict[str, float]:
        """All validation sets: {"s4/miou": ...}."""
        return {
            f"{name}/{key}": value
            for name, words in self.words["val"].items()
            for key, value in self.score(params, words).items()
        }

    def train(self) -> dict:
        """Train, or go on, or return at once what was trained; the best parameters."""
        checkpoints = Checkpoints(self.folder / "checkpoints")
        restored = checkpoints.restore(self._states_at)
        state, saved = restored or (self._new_state(), {"next_batch": 0})
        progress = Progress(**saved.get("loop", {}))
        checkpoints.go_on_from(int(state.step) if restored else -1)
        for phase in self.phases:
            start, end = phase.plan.start, phase.plan.end
            if int(state.step) >= end and progress.evaluated:
                continue
            if int(state.step) == start > 0 and progress.evaluated:
                state = phase.states.restart(state.step, self._best(checkpoints, state.params))
            elif restored:
                _LOG.info("%s: going on at step %d", self.name, int(state.step))
            with self._train_batches(self._kept_features(phase, state.params)) as batches:
                batches.set_state(saved)
                state = self._run(phase, state, progress, batches, checkpoints)
                saved = batches.get_state()
        params = self._best(checkpoints, state.params)
        checkpoints.close()
        return params

    def _states_at(self, step: int) -> StateMaker:
        """Of the phase that ends in this step or has it."""
        return next((p for p in self.phases if step <= p.plan.end), self.phases[-1]).states

    def trained(self) -> dict:
        """The best parameters of a stage that was trained before.

        Raises:
          UserError: it was not, or not to its end.
        """
        checkpoints = Checkpoints(self.folder / "checkpoints", read_only=True)
        if not checkpoints.finished(self.stage.steps):
            raise UserError(
                f"{self.folder}: no finished stage {self.name}, whose masks are needed. Run it "
                f"first (--config.stages={self.name},avss does both), or name the folder of "
                "one by --config.avss.prompt.stage1=DIR"
            )
        states = self.phases[-1].states
        if checkpoints.best_step() is None:
            params = checkpoints.restore(self._states_at)[0].params
        else:
            params = checkpoints.restore_best(states.shapes.params, states.shardings.params)
        checkpoints.close()
        return params

    def _run(
        self,
        phase: Phase,
        state: TrainState,
        progress: Progress,
        batches: Batches,
        checkpoints: Checkpoints,
    ) -> TrainState:
        config, stage = self.config, self.stage
        loss = make_loss(
            self.graphdef,
            dtype=config.dtype,
            num_classes=self.num_classes,
            max_targets=stage.max_targets,
            criterion=stage.criterion.to_dict(),
            listen=stage.listen.to_dict(),
        )
        shardings = phase.states.shardings
        skip = config.max_skipped > 0
        step = make_train_step(loss, phase.tx, self.mesh, shardings, phase.trained, skip=skip)
        loop = Loop(
            train_step=compile_once(step, f"{self.name} {phase.plan.name}".strip()),
            batches=batches,
            put=self.put,
            evaluate=self.validate if stage.val else None,
            score=_selected_by,
            learning_rate=phase.learning_rate,
            checkpoints=checkpoints,
            writer=MetricsWriter(
                self.folder, resume_step=int(state.step), evaluated=progress.evaluated
            ),
            dump=Dump(
                self.folder / "not_finite",
                self.data.source(self.words["train"]["train"]).table.uid,
                {"stage": self.name, "seed": config.seed},
            ),
            name=f"{self.name} {phase.plan.name}".strip(),
            end=phase.plan.end,
            total_steps=stage.steps,
            eval_every=stage.eval_every,
            eval_first=stage.eval_first,
            log_every=config.log_every,
            max_skipped=config.max_skipped,
            seed=config.seed,
        )
        try:
            return loop.run(state, progress)
        finally:
            loop.writer.close()

    def _kept_features(self, phase: Phase, params: dict) -> FeatureStore | None:
        """Of the training frames, where the config asks for them and the phase can have them."""
        config, plan = self.config, phase.plan
        if not config.data.kept_features:
            return None
        if phase.trains_encoder:
            _LOG.info("%s %s trains the encoder: reads no kept features", self.name, plan.name)
            return None
        return keep_features(
            self.data.source(self.words["train"]["train"]),
            self.graphdef,
            params,
            self.mesh,
            settings={"gelu": config.model.gelu or SIZES[config.model.size]["gelu"]},
            frame_size=self.spec.frame_size,
            dtype=config.dtype,
            kept_in=config.data.kept_features,
            visits=(plan.end - plan.start) * self.stage.batch_size,
        )

    def _train_batches(self, features: FeatureStore | None = None) -> Batches:
        config, stage, words = self.config, self.stage, self.words["train"]["train"]
        prompt, augment = stage.prompt, Augment(**config.data.augment.to_dict())
        return train_batches(
            self.data.source(words),
            self.spec,
            batch_size=stage.batch_size,
            seed=config.seed,
            augment=augment,
            frames_per_clip=config.data.frames_per_clip or None,
            beside=dataclasses.replace(
                self.beside(words, ("own", *augment.negatives)), features=features
            ),
            references=(prompt.truth, prompt.predicted),
            num_workers=config.data.num_workers,
            cache=self.cache,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def _new_state(self) -> TrainState:
        """From given weights, else from scratch."""
        states, shardings = self.phases[0].states, self.shardings.params
        state = states.new(jax.random.key(self.config.seed))
        params = given_params(self.config, self.name, self.folder, state.params, shardings)
        return state if params is None else states.restart(state.step, params)

    def _best(self, checkpoints: Checkpoints, params: dict) -> dict:
        """The best parameters by validation; without validation sets the given, last ones."""
        if checkpoints.best_step() is None:
            return params
        _LOG.info("%s: best validation at step %d", self.name, checkpoints.best_step())
        return checkpoints.restore_best(params, self.shardings.params)


def _selected_by(values: dict[str, float]) -> float:
    """What the best parameters have most of: the mean of all mIoU and F-scores."""
    return float(np.mean([value for name, value in values.items() if "activated" not in name]))
