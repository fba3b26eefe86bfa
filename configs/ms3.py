"""MS3: where is the sounding object? Binary masks, AVSBench-object.

python -m ssp_jax.main --config=configs/ms3.py --config.data_dir=DIR        (Swin-B, 384 px)
python -m ssp_jax.main --config=configs/ms3.py:small --config.data_dir=DIR  (two CPU cores)

DIR holds Single-source/ and Multi-sources/ as downloaded.
"""

from configs.common import SMALL_STAGE, base, small, stage
from ssp_jax.errors import UserError


def get_config(size: str = "base"):
    """The real size, or `small`: trained from scratch, every parameter free."""
    if size not in ("base", "small"):
        raise UserError(f"configs/ms3.py:{size}: expected one of 'base', 'small'")
    config = base()
    config.stages = ("avs",)
    data = {
        "train": ("ms3:train",),
        "val": {"ms3": "ms3:val"},
        "test": {"ms3": "ms3:test"},
    }
    if size == "small":
        config = small(config)
        # 296 clips whose sounds have no names teach a network from scratch little: S4's 3,452
        # clips, in the same folder, join its training.
        data["train"] = ("s4:train", "ms3:train")
        config.avs = stage(**data, **SMALL_STAGE)
    else:
        config.avs = stage(**data, steps=4_500, batch_size=10, optim={"clip_norm": 0.01})
    return config
