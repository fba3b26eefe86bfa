"""S4: where is the sounding object? Binary masks, AVSBench-object.

python -m ssp_jax.main --config=configs/s4.py --config.data_dir=DIR        (Swin-B, 384 px)
python -m ssp_jax.main --config=configs/s4.py:small --config.data_dir=DIR  (two CPU cores)

DIR holds Single-source/ and Multi-sources/ as downloaded.
"""

from configs.common import SMALL_STAGE, base, small, stage
from ssp_jax.errors import UserError


def get_config(size: str = "base"):
    """The real size, or `small`: trained from scratch, every parameter free."""
    if size not in ("base", "small"):
        raise UserError(f"configs/s4.py:{size}: expected one of 'base', 'small'")
    config = base()
    config.stages = ("avs",)
    data = {
        "train": ("s4:train",),
        "val": {"s4": "s4:val"},
        "test": {"s4": "s4:test"},
    }
    if size == "small":
        config = small(config)
        config.avs = stage(**data, **SMALL_STAGE)
    else:
        config.avs = stage(**data, steps=10_000, batch_size=10, optim={"clip_norm": 0.01})
    return config
