"""AVSS: what sounds where, 71 classes, AVSBench-semantic (v1s, v1m and v2 together).

python -m ssp_jax.main --config=configs/avss.py --config.data_dir=DIR --config.init_from=WEIGHTS
python -m ssp_jax.main --config=configs/avss.py:small --config.data_dir=DIR

Two stages: where does it sound (`avs`), whose masks of every clip prompt what sounds (`avss`).
The first is SSP with Swin-B at 384 pixels under the official protocol, from pretrained weights
(WEIGHTS: folders of python -m ssp_jax.weights import, of Mask2Former, VGGish and BERT, separated by
commas). `avss.py:aavs` is the baseline AAVS, `avss.py:paper` SSP as the paper says it (flow by
Perceiver IO, tokens by CLIP), both under their own protocol. `small`
is the size for two CPU cores, from scratch. DIR is the folder with metadata.csv.
AAVS reports mIoU 48.5, F-score 53.2; SSP 50.1, 54.5.
"""

from ssp_jax.config import (
    AAVS_SEMANTIC_STAGE,
    AAVS_STAGE,
    SMALL_SEMANTIC_STAGE,
    SMALL_STAGE,
    base,
    check_kind,
    finish,
    small,
    stage,
)

ANNOTATED_FRAMES, CLIPS = 52_432, 8_498  # in training


def get_config(kind: str = "base"):
    """`base`, `paper`, `aavs` or `small`."""
    check_kind("configs/avss.py", kind)
    config = small(base()) if kind == "small" else base()
    config.stages = "avs,avss"
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
    if kind == "small":
        config.avs = stage(**binary, **SMALL_STAGE)
        config.avss = stage(**semantic, **SMALL_SEMANTIC_STAGE)
        return config
    # 60 epochs, two clips a step on average.
    batch_size = round(2 * ANNOTATED_FRAMES / CLIPS)
    per_epoch = ANNOTATED_FRAMES // batch_size
    steps = {"batch_size": batch_size, "steps": 60 * per_epoch, "eval_every": per_epoch}
    config.avs = stage(**binary, **AAVS_STAGE, **steps)
    config.avss = stage(**semantic, **AAVS_SEMANTIC_STAGE, **steps)
    return finish(config, kind)
