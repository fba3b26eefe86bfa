"""One stage: its data, network, prediction and scores, as its config says."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ssp_jax import preemption
from ssp_jax.config import matmul_precision, model_overrides
from ssp_jax.data.batches import Batches
from ssp_jax.data.beside import Beside
from ssp_jax.data.companions import Companions
from ssp_jax.data.datasets import DataSets, read_spec, scored_word
from ssp_jax.data.frame_cache import FrameCache
from ssp_jax.data.mask_store import MaskStore
from ssp_jax.data.pipeline import eval_batches
from ssp_jax.errors import UserError
from ssp_jax.evaluators.segmentation import SegmentationEvaluator
from ssp_jax.models.network import TrainedNetwork
from ssp_jax.models.sizes import SIZES
from ssp_jax.models.ssp import OWN_REFERENCES
from ssp_jax.phases import make_phases, reads_texts
from ssp_jax.prompts.tokeniser import check_vocabulary
from ssp_jax.protocols import get_protocol
from ssp_jax.sharding import make_mesh, put_batch, state_sharding
from ssp_jax.summary import parameter_table
from ssp_jax.train_state import seed_key, split_model
from ssp_jax.train_step import make_mask_prompt, make_predict

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

    Raises:
      UserError: no words, or see `scored_word`.
    """
    stage, protocol = config[name], get_protocol(config.protocol)
    if not all(isinstance(word, str) for word in stage.train):
        raise UserError(f"config.{name}.train={stage.train}: expected 'benchmark:split' words")
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
      trains: False for who only predicts or scores: no phases are planned, so the config may lack
        what only a training needs, and there is no optimiser.
      phases: those of its training, empty if it does not train.
      precision: of products, see `matmul_precision`.
      param_shapes, param_shardings: of the network's parameters, as a tree.
    """

    config: ConfigDict
    name: str
    data: DataSets
    folder: Path
    companions: Companions | None = None
    masks_of: Callable[[str, str], MaskStore] | None = None
    trains: bool = True

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
        self.precision = matmul_precision(config)
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
        overrides = model_overrides(config)
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
        self.phases = make_phases(config, self.name, init, self.mesh) if self.trains else ()
        self.param_shapes = (
            self.phases[0].states.shapes.params
            if self.phases
            else jax.eval_shape(init, seed_key(0))
        )
        self.param_shardings = state_sharding(self.mesh, self.param_shapes)
        trained = {phase.plan.name or "trained": phase.trained for phase in self.phases}
        _LOG.info(
            "%s: size %s, input %d px, %s, %d device%s\n%s",
            *(self.name, config.model.size, self.spec.frame_size, config.dtype, self.mesh.size),
            *("" if self.mesh.size == 1 else "s", parameter_table(self.param_shapes, trained)),
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
            *(self.graphdef, self.mesh, self.param_shardings, size),
            *(self.config.dtype, self.precision),
        )

    @functools.cached_property
    def mask_prompt(self) -> Callable:
        """`train_step.make_mask_prompt`; of a stage that is `prompted`."""
        return make_mask_prompt(
            *(self.graphdef, self.mesh, self.param_shardings),
            *(self.config.dtype, self.precision),
        )

    def put(self, batch):
        """A host batch on the devices."""
        return put_batch(self.mesh, batch)

    def reads(self) -> dict:
        """Return what of the config decides on a prediction's inputs, besides frames and sounds."""
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
        """Open what lies beside clips of 'benchmark:split' words, what stage 1 predicts by each of
        these sounds included; made where it is not there yet."""
        by_stage1 = self.stage.prompt.source == "stage1"
        return Beside(
            masks={kind: self.masks_of(words, kind) for kind in sounds} if by_stage1 else None,
            flow_masks=self.companions.flow_masks(words) if self.flow_used else None,
            texts=self.companions.texts(words) if self.spec.text_length else None,
            visual_tokens=self.companions.visual_tokens(words) if self.clip else None,
        )

    def batches(
        self,
        words: str,
        sounds: str = "own",
        clips: Sequence[int] | None = None,
        *,
        blank_bad_clips: bool = False,
    ) -> Batches:
        """Evaluation batches of 'benchmark:split' words; the rest as in `eval_batches`."""
        return eval_batches(
            self.data.source(words),
            self.spec,
            batch_size=self.stage.batch_size,
            sounds=sounds,
            beside=self.beside(words, (sounds,)),
            reference=REFERENCES[self.stage.prompt.source],
            seed=self.config.seed,
            clips=clips,
            blank_bad_clips=blank_bad_clips,
            num_workers=self.config.data.num_workers,
            cache=self.cache,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def score(self, params: dict, words: str, sounds: str = "own") -> dict[str, float]:
        """{"miou": ..., "fscore": ..., "activated": ...} of a data set."""
        with self.batches(words, sounds) as batches:
            batches = preemption.until_asked(batches)
            return dict(self.evaluator.run(self.predict, params, batches, self.put))

    def validate(self, params: dict) -> dict[str, float]:
        """All validation sets: {"s4/miou": ...}."""
        return {
            f"{name}/{key}": value
            for name, words in self.words["val"].items()
            for key, value in self.score(params, words).items()
        }
