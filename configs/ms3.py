"""MS3: where are the sounding objects? Binary masks, AVSBench-object.

python -m ssp_jax.main --config=configs/ms3.py --config.data_dir=DIR --config.init_from=WEIGHTS
python -m ssp_jax.main --config=configs/ms3.py:small --config.data_dir=DIR

The first is Swin-B at 384 pixels from pretrained weights (python -m ssp_jax.weights import), under
the official protocol; `ms3.py:paper` is the same under the protocol of AAVS and SSP, which scores
AVSBench-semantic's v1m. `small` is the size for two CPU cores, from scratch.
DIR holds Single-source/ and Multi-sources/ as downloaded; with `paper` it is the folder with
metadata.csv. AAVS reports mIoU 67.3, F-score 77.6.
"""

from configs.common import AAVS_OBJECT_STAGE, SMALL_STAGE, base, check_size, paper, small, stage

CLIPS, FRAMES = 296, 5  # in training, each frame annotated


def get_config(size: str = "base"):
    """`base`, `paper` or `small`."""
    check_size("configs/ms3.py", size)
    data = {
        "train": ("ms3:train",),
        "val": {"ms3": "ms3:val"},
        "test": {"ms3": "ms3:test"},
    }
    if size == "small":
        config = small(base())
        # 296 clips whose sounds have no names teach a network from scratch little: S4's 3,452
        # clips, in the same folder, join its training.
        data["train"] = ("s4:train", "ms3:train")
        config.avs = stage(**data, **SMALL_STAGE)
        return config
    config = base() if size == "base" else paper(base())
    # 30 epochs, two clips a step.
    per_epoch = CLIPS // 2
    config.avs = stage(
        **data,
        **AAVS_OBJECT_STAGE,
        batch_size=2 * FRAMES,
        steps=30 * per_epoch,
        eval_every=per_epoch,
    )
    return config
