"""AVSS: what sounds where, 71 classes, AVSBench-semantic (v1s, v1m and v2 together).

python -m ssp_jax.main --config=configs/avss.py --config.data_dir=DIR --config.init_from=WEIGHTS
python -m ssp_jax.main --config=configs/avss.py:small --config.data_dir=DIR

Two stages: where does it sound (`avs`), whose masks of every clip prompt what sounds (`avss`).
The first line is Swin-B at 384 pixels from pretrained weights (python -m ssp_jax.weights import),
under the official protocol; `avss.py:paper` is the same under that of AAVS and SSP. `small` is the
size for two CPU cores, from scratch. DIR is the folder with metadata.csv.
AAVS reports mIoU 48.5, F-score 53.2.
"""

from configs.common import (
    AAVS_SEMANTIC_STAGE,
    AAVS_STAGE,
    SMALL_SEMANTIC_STAGE,
    SMALL_STAGE,
    base,
    check_size,
    paper,
    small,
    stage,
)

ANNOTATED_FRAMES, CLIPS = 52_432, 8_498  # in training


def get_config(size: str = "base"):
    """`base`, `paper` or `small`."""
    check_size("configs/avss.py", size)
    config = small(base()) if size == "small" else base()
    config = paper(config) if size == "paper" else config
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
    if size == "small":
        config.avs = stage(**binary, **SMALL_STAGE)
        config.avss = stage(**semantic, **SMALL_SEMANTIC_STAGE)
        return config
    # 60 epochs, two clips a step on average.
    batch_size = round(2 * ANNOTATED_FRAMES / CLIPS)
    per_epoch = ANNOTATED_FRAMES // batch_size
    steps = {"batch_size": batch_size, "steps": 60 * per_epoch, "eval_every": per_epoch}
    config.avs = stage(**binary, **AAVS_STAGE, **steps)
    config.avss = stage(**semantic, **AAVS_SEMANTIC_STAGE, **steps)
    if size == "paper":
        config.avss.prompt.update({"truth": 1.0, "predicted": 0.0})
    return config
