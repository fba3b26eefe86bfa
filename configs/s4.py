"""S4: where is the sounding object? Binary masks, AVSBench-object.

python -m ssp_jax.main --config=configs/s4.py --config.data_dir=DIR --config.init_from=WEIGHTS
python -m ssp_jax.main --config=configs/s4.py:small --config.data_dir=DIR

The first is SSP with Swin-B at 384 pixels under the official protocol, from pretrained weights
(WEIGHTS: folders of python -m ssp_jax.weights import, of Mask2Former, VGGish and BERT, separated by
commas). `s4.py:aavs` is the baseline AAVS, `s4.py:paper` SSP as the paper says it (flow by
Perceiver IO, tokens by CLIP), both under their own protocol, which scores
AVSBench-semantic's v1s. `small` is the size for two CPU cores, from scratch. DIR holds
Single-source/ and Multi-sources/ as downloaded; with `paper` and `aavs` it is the folder
with metadata.csv. AAVS reports mIoU 83.2, F-score 91.3; SSP 85.4, 93.3.
"""

from ssp_jax.config import AAVS_OBJECT_STAGE, SMALL_STAGE, base, check_kind, finish, small, stage

CLIPS = 3_452  # in training, one annotated frame each


def get_config(kind: str = "base"):
    """`base`, `paper`, `aavs` or `small`."""
    check_kind("configs/s4.py", kind)
    data = {
        "train": ("s4:train",),
        "val": {"s4": "s4:val"},
        "test": {"s4": "s4:test"},
    }
    if kind == "small":
        config = small(base())
        config.avs = stage(**data, **SMALL_STAGE)
        return config
    config = base()
    # 30 epochs, two clips a step.
    per_epoch = CLIPS // 2
    config.avs = stage(
        **data, **AAVS_OBJECT_STAGE, batch_size=2, steps=30 * per_epoch, eval_every=per_epoch
    )
    return finish(config, kind)
