"""Parameters of one precision and inputs of another, in every module of `ssp_jax.models`."""

import importlib
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ssp_jax import models
from ssp_jax.models.adapters import Adapter, ProjectionWithAdapter
from ssp_jax.models.attention import Attention
from ssp_jax.models.audio_visual_map import AudioVisualMap, TextVisualMap
from ssp_jax.models.bert import Bert, BertLayer, CrossAttention, FeedForward
from ssp_jax.models.clip_vision import ClipLayer, ClipVision
from ssp_jax.models.convolution import Conv3x3
from ssp_jax.models.deformable_attention import DeformableAttention
from ssp_jax.models.deformable_sampling import SAMPLERS
from ssp_jax.models.linear import Linear
from ssp_jax.models.mask_decoder import MaskDecoder, MaskDecoderLayer
from ssp_jax.models.network import TrainedNetwork
from ssp_jax.models.perceiver_flow import PerceiverFlow, PerceiverLayer
from ssp_jax.models.pixel_decoder import PixelDecoder, PixelDecoderLayer
from ssp_jax.models.promotion import GroupNorm, LayerNorm, PlainLinear
from ssp_jax.models.ssp import SSP, AudioProjection
from ssp_jax.models.swin import PatchMerging, Swin, SwinBlock, SwinStage, WindowAttention
from ssp_jax.models.text_classes import TextClasses
from ssp_jax.models.vggish import VGGish
from ssp_jax.models.vta import VARIANTS, VTA
from ssp_jax.train_state import path_name
from tests.tiny_run import TINY_MODEL

_he = nnx.initializers.he_normal()
_BERT = {"vocabulary": 9, "max_length": 4, "width": 8, "layers": 1, "heads": 2, "ffn": 8}
_SSP = TINY_MODEL | {f"bert_{name.removeprefix('max_')}": x for name, x in _BERT.items()}
_SIZES = ((1, 1), (2, 2), (4, 4))
_SWIN = {"window": 2, "gelu": "exact", "adapters": True}


def real(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def whole(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def flags(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.bool_)


_LEVELS = [real(2, *size, 32) for size in _SIZES]
_TEXTS = (whole(2, 4), whole(2, 4), flags(2, 4))
_NAMED = dict(zip(("text_ids", "text_types", "text_mask"), _TEXTS, strict=True))
_PROMPTS = {"reference": real(2, 9, 9), "own_reference": flags(2), "flow_mask": real(2, 9, 9)}


def ssp(**changes):
    arguments = _SSP | {"gelu": "exact", "adapters": True, "audio_visual_map": True} | changes
    return lambda rngs: SSP(3, 5, **arguments, rngs=rngs)


# Class -> name of an example: (rngs -> module, its inputs, its named inputs, its settings).
_EXAMPLES = {
    Adapter: {"": (lambda rngs: Adapter(8, rngs=rngs), (real(2, 8),))},
    ProjectionWithAdapter: {
        "": (lambda rngs: ProjectionWithAdapter(8, mode="after", rngs=rngs), (real(2, 8),))
    },
    Attention: {
        "": (
            lambda rngs: Attention(8, 2, rngs=rngs),
            (real(2, 3, 8), real(2, 4, 8), real(2, 4, 8), flags(2, 3, 4)),
        )
    },
    CrossAttention: {
        "": (
            lambda rngs: CrossAttention(8, 6, 2, rngs=rngs),
            (real(2, 3, 8), real(2, 4, 6), real(2, 4, 6)),
        )
    },
    AudioVisualMap: {
        "": (
            lambda rngs: AudioVisualMap(8, 4, rngs=rngs),
            (real(2, 3, 3, 8), real(2, 8), real(2, 3, 3)),
        )
    },
    TextVisualMap: {
        "": (
            lambda rngs: TextVisualMap(8, 6, 4, rngs=rngs),
            (real(2, 3, 3, 8), real(2, 4, 6), flags(2, 4)),
        )
    },
    TextClasses: {"": (lambda rngs: TextClasses(6, 5, rngs=rngs), (real(2, 4, 6), flags(2, 4)))},
    FeedForward: {
        "": (
            lambda rngs: FeedForward(8, 6, gelu="exact", adapter=True, rngs=rngs),
            (real(2, 3, 8),),
        )
    },
    BertLayer: {
        "": (
            lambda rngs: BertLayer(
                *(8, 2, 6), cross_width=6, queries=True, gelu="exact", adapters=True, rngs=rngs
            ),
            (real(2, 5, 8), flags(2, 1, 5), real(2, 3, 6), flags(2, 1, 3)),
            {},
            {"num_queries": 2},
        )
    },
    Bert: {
        "": (
            lambda rngs: Bert(**_BERT, rngs=rngs),
            _TEXTS[:2],
            {"vectors": real(2, 3, 8), "mask": flags(2, 7)},
        )
    },
    ClipLayer: {"": (lambda rngs: ClipLayer(8, 2, 6, rngs=rngs), (real(2, 3, 8),))},
    ClipVision: {
        "": (
            lambda rngs: ClipVision(
                width=8, layers=1, heads=2, ffn=6, patch=4, image_size=8, rngs=rngs
            ),
            (real(2, 8, 8, 3),),
        )
    },
    Conv3x3: {
        "with a bias": (
            lambda rngs: Conv3x3(3, 4, kernel_init=_he, rngs=rngs),
            (real(2, 5, 5, 3),),
        ),
        "without": (
            lambda rngs: Conv3x3(3, 4, use_bias=False, kernel_init=_he, rngs=rngs),
            (real(2, 5, 5, 3),),
        ),
    },
    DeformableAttention: {
        sampling: (
            lambda rngs, sampling=sampling: DeformableAttention(
                32, 2, sampling=sampling, rngs=rngs
            ),
            (real(2, 21, 32), real(21, 32)),
            {},
            {"sizes": _SIZES},
        )
        for sampling in SAMPLERS
    },
    Linear: {"": (lambda rngs: Linear(3, 4, rngs=rngs), (real(2, 5, 3),))},
    PlainLinear: {"": (lambda rngs: PlainLinear(3, 4, rngs=rngs), (real(2, 5, 3),))},
    LayerNorm: {"": (lambda rngs: LayerNorm(3, rngs=rngs), (real(2, 5, 3),))},
    GroupNorm: {"": (lambda rngs: GroupNorm(8, num_groups=2, rngs=rngs), (real(2, 5, 8),))},
    MaskDecoderLayer: {
        "": (
            lambda rngs: MaskDecoderLayer(8, 2, 6, decoder_adapter="after", rngs=rngs),
            (real(2, 3, 8), real(3, 8), real(2, 4, 8), real(2, 4, 8), flags(2, 3, 4)),
        )
    },
    MaskDecoder: {
        "": (
            lambda rngs: MaskDecoder(
                *(3, 5, 32),
                heads=2,
                layers=2,
                ffn=8,
                mask_prompt=True,
                flow_prompt=True,
                post_mask_head=True,
                rngs=rngs,
            ),
            (real(2, 8, 8, 32), _LEVELS, real(2, 32), real(2, 9, 9), real(2, 9, 9)),
        )
    },
    PerceiverLayer: {
        "": (
            lambda rngs: PerceiverLayer(8, inner=8, heads=2, source_channels=6, rngs=rngs),
            (real(2, 3, 8), real(2, 4, 6)),
        )
    },
    PerceiverFlow: {
        "": (
            lambda rngs: PerceiverFlow(
                size=(4, 6),
                latents=3,
                channels=8,
                layers=1,
                heads=2,
                bands=2,
                patch_channels=6,
                rngs=rngs,
            ),
            (real(2, 2, 4, 6, 3),),
        )
    },
    PixelDecoderLayer: {
        "": (
            lambda rngs: PixelDecoderLayer(
                32, 2, 8, decoder_adapter="none", sampling="fused", rngs=rngs
            ),
            (real(2, 21, 32), real(21, 32)),
            {},
            {"sizes": _SIZES},
        )
    },
    PixelDecoder: {
        "": (
            lambda rngs: PixelDecoder((4, 5, 6, 7), 32, heads=2, layers=1, ffn=8, rngs=rngs),
            ([real(2, side, side, width) for side, width in ((8, 4), (4, 5), (2, 6), (1, 7))],),
        )
    },
    AudioProjection: {"": (lambda rngs: AudioProjection(8, 6, rngs=rngs), (real(2, 128),))},
    WindowAttention: {
        last: (
            lambda rngs: WindowAttention(8, 2, 2, rngs=rngs),
            (real(2, 3, 4, 8), real(3, 4, 4)),
            {},
            {"tokens_last": bool(last)},
        )
        for last in ("", "tokens last")
    },
    SwinBlock: {
        "": (lambda rngs: SwinBlock(8, 2, shift=1, **_SWIN, rngs=rngs), (real(2, 5, 4, 8),))
    },
    SwinStage: {
        "": (
            lambda rngs: SwinStage(8, 2, 2, **_SWIN, rngs=rngs),
            (real(2, 5, 4, 8),),
            {},
            {"remat": True},
        )
    },
    PatchMerging: {"": (lambda rngs: PatchMerging(4, rngs=rngs), (real(2, 5, 4, 4),))},
    Swin: {
        "": (
            lambda rngs: Swin(embed_dim=8, depths=(2, 1), num_heads=(1, 2), window=2, rngs=rngs),
            (real(2, 16, 16, 3),),
        )
    },
    VGGish: {"": (lambda rngs: VGGish(width=1 / 32, rngs=rngs), (real(2, 96, 64),))},
    VTA: {
        variant: (
            lambda rngs, variant=variant, norm=norm: VTA(
                32, 2, 8, variant=variant, norm=norm, bert=_BERT, rngs=rngs
            ),
            ([real(2, 8, 8, 32), real(2, 4, 4, 32)], real(2, 2, 2, 8), *_TEXTS),
        )
        for variant, norm in zip(VARIANTS[1:], ("added", "all", "all"), strict=True)
    },
    SSP: {
        "ours": (
            ssp(
                mask_prompt=True,
                premask=True,
                own_reference="self",
                post_mask_head=True,
                vta="joint",
                vta_queries=True,
                text_visual_map=True,
                text_classes=True,
            ),
            (real(2, 32, 32, 3), real(2, 96, 64)),
            _NAMED | _PROMPTS,
        ),
        "the paper's": (
            ssp(
                mask_prompt=True,
                premask=True,
                premask_form="paper",
                own_reference="heard",
                vta="joint",
                vta_visual="clip",
                clip_width=8,
                vta_into="mask_features",
                decoder_adapter="replace",
            ),
            (real(2, 32, 32, 3), real(2, 96, 64)),
            _NAMED | _PROMPTS | {"visual_tokens": real(2, 2, 2, 8)},
        ),
    },
}
_ALL = [
    pytest.param(*(*example, {}, {})[:4], id=f"{kind.__name__} {name}".strip())
    for kind, examples in _EXAMPLES.items()
    for name, example in examples.items()
]


def cast(tree, dtype):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, dtype) if x.dtype == jnp.float32 else x, tree
    )


def test_every_module_has_an_example():
    found = set()
    for module in pkgutil.iter_modules(models.__path__):
        members = vars(importlib.import_module(f"{models.__name__}.{module.name}")).values()
        found |= {x for x in members if inspect.isclass(x) and issubclass(x, nnx.Module)}
    own = {kind for kind in found if kind.__module__.startswith(models.__name__)}
    assert own - _EXAMPLES.keys() == {TrainedNetwork}  # it is not called


@pytest.mark.parametrize(("make", "inputs", "named", "settings"), _ALL)
def test_the_wider_precision_wins(make, inputs, named, settings):
    graphdef, shapes = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    params = nnx.to_pure_dict(shapes)

    def run(params, inputs, named):
        return nnx.merge(graphdef, params)(*inputs, **named, **settings)

    def total(*arguments):
        results = jax.tree.leaves(run(*arguments))
        return sum(x.astype(jnp.float32).sum() for x in results)

    narrow, wide = jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float32)
    # Where strict modes have nothing to refuse, others have nothing to do.
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        jax.eval_shape(run, *(cast(given, narrow) for given in (params, inputs, named)))
        for of_params, of_inputs in ((narrow, wide), (wide, narrow)):
            given = cast(params, of_params), cast(inputs, of_inputs), cast(named, of_inputs)
            results = jax.tree_util.tree_leaves_with_path(jax.eval_shape(run, *given))
            # What comes of words alone has the precision of the parameters: words have none.
            found = {leaf.dtype for path, leaf in results if path_name(path)[-4:] != "text"}
            assert found == {wide}
            gradients = jax.eval_shape(jax.grad(total), *given)
            assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {of_params}


def test_narrow_parameters_count_as_what_they_are():
    module = Conv3x3(3, 4, kernel_init=_he, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(module)
    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    inputs = np.random.default_rng(0).normal(size=(2, 6, 5, 3)).astype(np.float32)
    run = jax.jit(lambda params, inputs: nnx.merge(graphdef, params)(inputs))
    result = run(narrow, inputs)
    assert result.dtype == jnp.float32
    widened = jax.tree.map(lambda x: x.astype(jnp.float32), narrow)
    np.testing.assert_array_equal(result, run(widened, inputs))
