"""AVSS: what sounds where, 71 classes, AVSBench-semantic (v1s, v1m and v2 together).

python -m ssp_jax.main --config=configs/avss.py --config.data_dir=DIR        (Swin-B, 384 px)
python -m ssp_jax.main --config=configs/avss.py:small --config.data_dir=DIR  (two CPU cores)

DIR is the folder with metadata.csv. Trains the binary stage first, then names the classes.
"""

from configs.common import SMALL_SEMANTIC_STAGE, SMALL_STAGE, base, small, stage
from ssp_jax.errors import UserError


def get_config(size: str = "base"):
    """The real size, or `small`: trained from scratch, every parameter free."""
    if size not in ("base", "small"):
        raise UserError(f"configs/avss.py:{size}: expected one of 'base', 'small'")
    config = base()
    config.stages = ("avs", "avss")
    config.data.sounds_from = "labels"
    binary = {
        "train": ("avss:train",),
        "val": {"v1s": "avss:val_v1s", "v1m": "avss:val_v1m"},
        "test": {"v1s": "avss:test_v1s", "v1m": "avss:test_v1m"},
    }
    semantic = {
        "train": ("avss:train",),
        "val": {"avss": "avss:val"},
        "test": {"avss": "avss:test"},
        "max_targets": 8,
    }
    if size == "small":
        config = small(config)
        config.avs = stage(**binary, **SMALL_STAGE)
        config.avss = stage(**semantic, **SMALL_SEMANTIC_STAGE)
    else:
        config.avs = stage(**binary, steps=100_000, batch_size=20)
        config.avss = stage(
            **semantic, init_from="avs", steps=150_000, batch_size=20, num_queries=100
        )
    return config
