"""The built-in benchmark on two CPU cores, from nothing to scores in minutes.

python -m ssp_jax.main --config=configs/demo.py

Generates clips, trains where-does-it-sound (`avs`: S4-like and MS3-like scores), then which class
(`avss`), and prints both beside predictors that do not listen.
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


def get_config():
    """Both stages on all three subsets."""
    config = small(base())
    config.stages = "avs,avss"
    config.data.sounds_from = "labels"
    train = tuple(f"builtin:train_{subset}" for subset in SUBSETS)
    config.objects = stage(
        train=train, val={"objects": "builtin:val"}, test={}, **SMALL_OBJECTS_STAGE
    )
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
    return config
