"""The built-in benchmark on two CPU cores, from nothing to scores in minutes.

python -m ssp_jax.main --config=configs/demo.py

Generates clips; trains what-is-visible (`objects`, in place of pretrained weights), then
where-does-it-sound (`avs`: S4-like and MS3-like scores), then which class (`avss`), and prints the
last two beside predictors that do not listen.
"""

from configs.common import (
    SMALL_OBJECTS_STAGE,
    SMALL_SEMANTIC_STAGE,
    SMALL_STAGE,
    base,
    small,
    stage,
)

SUBSETS = ("v1s", "v1m", "v2")
# What no stage before may have.
_NEW = (
    "class_head",
    "prompt_embedding",
    "network/(vta|text_projection)/",
    "post_mask_head",
)
_POST_MASK = {"post_mask": "head"}


def get_config():
    """Full SSP, all stages on all three subsets."""
    config = small(base())
    config.stages = "objects,avs,avss"
    config.model.vta = "joint"
    config.data.sounds_from = "labels"
    train = tuple(f"builtin:train_{subset}" for subset in SUBSETS)
    config.objects = stage(
        train=train, val={"objects": "builtin:val"}, test={}, **SMALL_OBJECTS_STAGE
    )
    config.avs = stage(
        train=train,
        val={"s4": "builtin:val_v1s", "ms3": "builtin:val_v1m"},
        test={"s4": "builtin:test_v1s", "ms3": "builtin:test_v1m"},
        **SMALL_STAGE
        | {
            "init_from": "objects",
            "init_new": _NEW,
            "prompt": SMALL_STAGE["prompt"] | {"premask": True},
            "criterion": SMALL_STAGE["criterion"] | _POST_MASK,
            "steps": 300,
            "eval_every": 150,
            "optim": SMALL_SEMANTIC_STAGE["optim"],
        },
    )
    config.avss = stage(
        train=train,
        val={"avss": "builtin:val"},
        test={"avss": "builtin:test"},
        **SMALL_SEMANTIC_STAGE
        | {
            "max_targets": 5,
            "init_from": "objects,avs",  # the class head is that of the objects
            "init_new": _NEW,
            "prompt": SMALL_SEMANTIC_STAGE["prompt"] | {"premask": True},
            "criterion": SMALL_SEMANTIC_STAGE["criterion"] | _POST_MASK,
            "steps": 300,
            "eval_every": 150,
        },
    )
    return config
