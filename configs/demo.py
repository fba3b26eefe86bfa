"""The built-in benchmark on two CPU cores, from nothing to scores in minutes.

python -m ssp_jax.main --config=configs/demo.py
python -m ssp_jax.ablate --config=configs/demo.py:ssp --seeds=3

Generates clips, trains where-does-it-sound (`avs`: S4-like and MS3-like scores), then which class
(`avss`), and prints both beside predictors that do not listen. That is the baseline, from scratch,
the best so far for its minutes; `demo.py:ssp` has every part of SSP, and begins with
what-is-visible (`objects`) in place of pretrained weights.
"""

from ssp_jax.config import (
    SMALL_OBJECTS_STAGE,
    SMALL_SEMANTIC_STAGE,
    SMALL_STAGE,
    base,
    small,
    stage,
)
from ssp_jax.errors import UserError

SUBSETS = ("v1s", "v1m", "v2")
# What no stage before may have.
_NEW = (
    "class_head",
    "prompt_embedding",
    "network/(vta|text_projection|text_visual_map|text_classes)/",
    "post_mask_head",
)


def get_config(kind: str = "baseline"):
    """`baseline` or `ssp`; all stages on all three subsets."""
    if kind not in ("baseline", "ssp"):
        raise UserError(f"configs/demo.py:{kind}: expected one of baseline, ssp")
    config = small(base())
    config.stages = "avs,avss"
    config.data.sounds_from = "labels"
    train = tuple(f"builtin:train_{subset}" for subset in SUBSETS)
    config.avs = stage(
        train=train,
        val={"s4": "builtin:val_v1s", "ms3": "builtin:val_v1m"},
        test={"s4": "builtin:test_v1s", "ms3": "builtin:test_v1m"},
        **SMALL_STAGE,
    )
    config.avss = stage(
        train=train,
        val={"avss": "builtin:val"},
        test={"avss": "builtin:test"},
        **SMALL_SEMANTIC_STAGE | {"max_targets": 5},
    )
    if kind == "baseline":
        return config
    config.stages = "objects,avs,avss"
    config.objects = stage(
        train=train, val={"objects": "builtin:val"}, test={}, **SMALL_OBJECTS_STAGE
    )
    config.model.vta = "joint"
    config.model.text_visual_map = config.model.text_classes = True
    # Features that segment already need not be kept from the decoder, as from scratch: kept from
    # it they forget classes, and texts then cost 2.6 points of semantic mIoU (benchmarks/README).
    config.model.decoder_trains_features = True
    config.avs.init_from = "objects"
    config.avss.init_from = "objects,avs"  # the class head is that of the objects
    config.avs.optim.update(SMALL_SEMANTIC_STAGE["optim"])
    for name in ("avs", "avss"):
        config[name].init_new = _NEW
        config[name].prompt.premask = True
        # The paper's weight of 10 did no better (benchmarks/README.md).
        config[name].criterion.update({"post_mask": "head", "post_mask_weight": 2.0})
        config[name].steps, config[name].eval_every = 300, 150
    # In both stages what the map hears: the first stage's masks cost the second 1.6 points on
    # validation, three seeds (benchmarks/README.md).
    config.avss.prompt.source = "heard"
    return config
