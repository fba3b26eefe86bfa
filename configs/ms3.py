"""MS3: where are the sounding objects? Binary masks, AVSBench-object.

python -m ssp_jax.main --config=configs/ms3.py --config.data_dir=DIR --config.init_from=WEIGHTS
python -m ssp_jax.main --config=configs/ms3.py:small --config.data_dir=DIR

The first is SSP with Swin-B at 384 pixels under the official protocol, from pretrained weights
(WEIGHTS: folders of python -m ssp_jax.weights import, of Mask2Former, VGGish and BERT, separated by
commas). `ms3.py:aavs` is the baseline AAVS, `ms3.py:paper` SSP as the paper says it (flow by
Perceiver IO, tokens by CLIP), both under their own protocol, which scores
AVSBench-semantic's v1m. `small` is the size for two CPU cores, from scratch. DIR holds
Single-source/ and Multi-sources/ as downloaded; with `paper` and `aavs` it is the folder
with metadata.csv. AAVS reports mIoU 67.3, F-score 77.6; SSP 72.3, 84.6.
"""

from ssp_jax.config import AAVS_OBJECT_STAGE, SMALL_STAGE, base, check_kind, finish, small, stage

CLIPS, FRAMES = 296, 5  # in training, each frame annotated


def get_config(kind: str = "base"):
    """`base`, `paper`, `aavs` or `small`."""
    check_kind("configs/ms3.py", kind)
    data = {
        "train": ("ms3:train",),
        "val": {"ms3": "ms3:val"},
        "test": {"ms3": "ms3:test"},
    }
    if kind == "small":
        config = small(base())
        # 296 clips whose sounds have no names teach a network from scratch little: S4's 3,452
        # clips, in the same folder, join its training.
        data["train"] = ("s4:train", "ms3:train")
        config.avs = stage(**data, **SMALL_STAGE)
        return config
    config = base()
    # 30 epochs, two clips a step.
    per_epoch = CLIPS // 2
    config.avs = stage(
        **data,
        **AAVS_OBJECT_STAGE,
        batch_size=2 * FRAMES,
        steps=30 * per_epoch,
        eval_every=per_epoch,
    )
    return finish(config, kind)
