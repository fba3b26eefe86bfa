"""S4: where is the sounding object? Binary masks, AVSBench-object.

python -m ssp_jax.main --config=configs/s4.py --config.data_dir=DIR --config.init_from=WEIGHTS
python -m ssp_jax.main --config=configs/s4.py:small --config.data_dir=DIR

The first is Swin-B at 384 pixels from pretrained weights (python -m ssp_jax.weights import), under
the official protocol; `s4.py:paper` is the same under the protocol of AAVS and SSP, which scores
AVSBench-semantic's v1s. `small` is the size for two CPU cores, from scratch.
DIR holds Single-source/ and Multi-sources/ as downloaded; with `paper` it is the folder with
metadata.csv. AAVS reports mIoU 83.2, F-score 91.3.
"""

from configs.common import AAVS_OBJECT_STAGE, SMALL_STAGE, base, check_size, paper, small, stage

CLIPS = 3_452  # in training, one annotated frame each


def get_config(size: str = "base"):
    """`base`, `paper` or `small`."""
    check_size("configs/s4.py", size)
    data = {
        "train": ("s4:train",),
        "val": {"s4": "s4:val"},
        "test": {"s4": "s4:test"},
    }
    if size == "small":
        config = small(base())
        config.avs = stage(**data, **SMALL_STAGE)
        return config
    config = base() if size == "base" else paper(base())
    # 30 epochs, two clips a step.
    per_epoch = CLIPS // 2
    config.avs = stage(
        **data, **AAVS_OBJECT_STAGE, batch_size=2, steps=30 * per_epoch, eval_every=per_epoch
    )
    return config
