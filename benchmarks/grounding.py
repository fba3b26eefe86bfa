"""How soon does a network find what A2 names, without hearing a thing?

    python -m benchmarks.grounding --objects=RUN/objects [--prepared=prepared] [--steps=600]

On top of the frozen features of a trained stage `objects` of configs/demo.py:ssp, trains nothing
but what reads the texts, to mark what sounds in the MS3-like and other training clips: BERT with
visual tokens (`joint`), visual tokens that attend to BERT's text (`cross_attention`), and pixels
compared with each word (`words`, `TextVisualMap`) or with all at once (`mean`); each sees the map
of a stride of the encoder (`swin`) or of the pixel decoder, or the mask features, pooled. Prints,
of the objects in the MS3-like test frames, how many are marked (more than half of their pixels): of
those that sound now, at another second of the clip, never; and the IoU of what sounds.
"""

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from flax import nnx

from benchmarks.selection import frames_of, heard_classes, visible_objects
from configs import demo
from ssp_jax.command_line import show_own_log
from ssp_jax.init_from import given_params
from ssp_jax.losses.listening import audio_visual_map
from ssp_jax.models.audio_visual_map import TextVisualMap
from ssp_jax.models.resize import resize_bilinear
from ssp_jax.models.sizes import SIZES
from ssp_jax.models.ssp import STRIDES
from ssp_jax.models.vta import VTA
from ssp_jax.places import define_path
from ssp_jax.run import open_stages
from ssp_jax.stage import Stage
from ssp_jax.stage_training import training_batches

_SMALL = SIZES["small"]
WAYS = (
    *(
        f"{way}:{visual}"
        for way in ("joint", "cross_attention", "words")
        for visual in ("swin:16", "decoder:16", "swin:8", "mask_features:8", "mask_features:4")
    ),
    "mean:mask_features:4",
)
_WAYS = flags.DEFINE_multi_enum("way", list(WAYS), WAYS, "Reader, what it sees, and its stride.")
_OBJECTS = define_path("objects", None, "Weights: the stage's folder.", required=True)
_PREPARED = define_path("prepared", "prepared", "Prepared data.")
_STEPS = flags.DEFINE_integer("steps", 600, "Of each training.", 4)
_RATES = flags.DEFINE_multi_float("rate", [1e-3, 3e-3], "Highest rates of Adam, a row each.")


class TextReader(nnx.Module):
    """One way to read the texts: logits of where what they name is.

    Args:
      way: of `WAYS`. vocabulary: rows of the word embedding; all else is of the size `small`.
    """

    def __init__(self, way: str, vocabulary: int, *, rngs: nnx.Rngs):
        self.way, self.sees, stride = way.split(":")
        self.level = STRIDES.index(int(stride))
        self.attends = self.way in ("joint", "cross_attention")
        hidden, width = _SMALL["hidden"], _SMALL["bert_width"]
        seen = _SMALL["embed_dim"] * 2**self.level if self.sees == "swin" else hidden
        names = {"max_length": "length"} | {x: x for x in ("width", "layers", "heads", "ffn")}
        bert = {name: _SMALL[f"bert_{key}"] for name, key in names.items()}
        self.vta = VTA(
            hidden,
            1,
            seen,
            variant=self.way if self.attends else "joint",
            bert=bert | {"vocabulary": vocabulary, "gelu": _SMALL["gelu"]},
            rngs=rngs,
        )
        if self.attends:
            for layer in (self.vta.align_1, getattr(self.vta, "align_2", None)):
                if layer is not None:  # what is added starts at zero in a network, but not here
                    lecun = nnx.initializers.lecun_normal()
                    layer.kernel[...] = lecun(rngs.params(), layer.kernel.shape)
            self.head = nnx.Linear(hidden, 1, rngs=rngs)
        else:
            self.map = TextVisualMap(seen, width, hidden, rngs=rngs)

    def __call__(self, backbone, mask_features, multi_scale, ids, types, mask):
        if self.sees == "mask_features":
            by = (2**self.level,) * 2
            visual = nnx.avg_pool(mask_features, by, by, "SAME", count_include_pad=False)
        else:
            visual = backbone[self.level] if self.sees == "swin" else multi_scale[3 - self.level]
        if self.attends:
            _, grids = self.vta([mask_features], visual, ids, types, mask)
            total = sum(grid for name, grid in grids.items() if name != "text")
            return self.head(total)[..., 0]
        words, counted = self.vta.words(ids, types, mask)
        if self.way == "mean":
            shares = counted / jnp.maximum(counted.sum(1, keepdims=True), 1)
            words = jnp.einsum("nl,nld->nd", shares, words)[:, None]
            counted = counted.any(1, keepdims=True)
        return self.map(visual, words, counted)


def train(stage: Stage, way: str, rate: float) -> tuple[float, ...]:
    """The row of one training."""
    states = stage.phases[0].states
    weights = given_params(stage.config, stage.name, stage.folder, states, jax.random.key(0))
    network_def, weights = nnx.split(nnx.merge(stage.graphdef, weights).network)
    vocabulary = stage.companions.tokeniser.vocabulary_size
    reader_def, params = nnx.split(TextReader(way, vocabulary, rngs=nnx.Rngs(0)))
    rates = optax.warmup_cosine_decay_schedule(0, rate, _STEPS.value // 12, _STEPS.value)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rates, weight_decay=0.01))

    def logits(params, batch):
        network = nnx.merge(network_def, weights)
        backbone = network.encoder(batch.normalised())
        maps, given = network.pixel_decoder(backbone), batch.prompts()
        texts = (given[name] for name in ("text_ids", "text_types", "text_mask"))
        return nnx.merge(reader_def, params)(backbone, *maps, *texts)

    def loss(params, batch):
        # The loss of the audio-visual map: of logits that no sound adds to.
        found = logits(params, batch)
        nothing = jnp.zeros((*found.shape, 1)), jnp.zeros((len(found), 1))
        return audio_visual_map(*nothing, batch.labels, batch.annotated, bias=found)

    @jax.jit
    def step(params, state, batch):
        updates, state = tx.update(jax.grad(loss)(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    @jax.jit
    def predict(params, batch):
        return resize_bilinear(logits(params, batch), batch.labels.shape[1:]) > 0

    state = tx.init(params)
    with training_batches(stage) as batches:
        for _ in range(_STEPS.value):
            params, state = step(params, state, stage.put(next(batches)))
    return _marked(stage, lambda batch: np.asarray(predict(params, stage.put(batch))))


def _marked(stage: Stage, predict) -> tuple[float, ...]:
    frames = frames_of(stage, stage.words["test"]["ms3"], predict)
    heard, kinds = heard_classes(frames), {"now": [], "another": [], "never": []}
    ious = []
    for frame in frames:
        marked, truth = frame.predicted > 0, frame.truth > 0
        if truth.any():
            ious.append((marked & truth).sum() / (marked | truth).sum())
        for label, pixels, sounds in visible_objects(frame):
            another = "another" if label in heard[frame.clip] else "never"
            kinds["now" if sounds else another].append(marked[pixels].mean() > 0.5)
    return tuple(100 * float(np.mean(found)) for found in (*kinds.values(), ious))


def main(argv):
    """Prints the table, a row as soon as it is done."""
    del argv
    show_own_log()
    config = demo.get_config("ssp")
    config.prepared_dir, config.stages = _PREPARED.value, "avs"
    config.avs.init_from, config.avs.prompt.source = _OBJECTS.value, "none"
    config.avs.prompt.premask, config.avs.criterion.post_mask = False, "none"
    print(f"{_STEPS.value} steps, marked in per cent")
    print("| way | rate | sounds now | at another second | never | IoU |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        stage = open_stages(config, Path(folder))["avs"]
        for way in _WAYS.value:
            for rate in _RATES.value:
                cells = " | ".join(f"{x:.1f}" for x in train(stage, way, rate))
                print(f"| {way} | {rate:g} | {cells} |", flush=True)


if __name__ == "__main__":
    app.run(main)
