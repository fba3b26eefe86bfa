"""Presets of `SSP`'s keyword arguments; AAVS's real numbers are `base`."""

from typing import Any

_AAVS = {
    "hidden": 256,
    "heads": 8,
    "encoder_layers": 6,
    "encoder_ffn": 1024,
    "decoder_layers": 9,
    "decoder_ffn": 2048,
    "audio_hidden": 512,
    "audio_width": 1.0,
    "gelu": "exact",
    "adapters": True,
    "decoder_adapter": "replace",
    # bert-base-uncased.
    "bert_vocabulary": 30522,
    "bert_length": 512,
    "bert_width": 768,
    "bert_layers": 12,
    "bert_heads": 12,
    "bert_ffn": 3072,
}

SIZES: dict[str, dict[str, Any]] = {
    # Every module of the real model, small enough to train from scratch on two CPU cores with
    # inputs of 96 to 128 pixels. No adapters: they exist to leave pretrained weights untouched.
    "small": {
        "embed_dim": 32,
        "depths": (1, 1, 2, 1),
        "swin_heads": (1, 2, 4, 8),
        "window": 4,
        "hidden": 64,
        "heads": 4,
        "encoder_layers": 1,
        "encoder_ffn": 128,
        "decoder_layers": 3,
        "decoder_ffn": 256,
        "audio_hidden": 128,
        "audio_width": 0.125,
        "gelu": "tanh",
        "adapters": False,
        "decoder_adapter": "none",
        "bert_length": 64,
        "bert_width": 64,
        "bert_layers": 2,
        "bert_heads": 4,
        "bert_ffn": 128,
        # At 16 a thing in 96 pixels is about one visual token (benchmarks/README.md).
        "vta_stride": 8,
        "vta_into": "all",
        "vta_norm": "added",
        "audio_visual_map": True,
        "decoder_trains_features": False,
    },
    "swin-tiny": _AAVS
    | {"embed_dim": 96, "depths": (2, 2, 6, 2), "swin_heads": (3, 6, 12, 24), "window": 7},
    "swin-small": _AAVS
    | {"embed_dim": 96, "depths": (2, 2, 18, 2), "swin_heads": (3, 6, 12, 24), "window": 7},
    "base": _AAVS
    | {"embed_dim": 128, "depths": (2, 2, 18, 2), "swin_heads": (4, 8, 16, 32), "window": 12},
    "swin-large": _AAVS
    | {"embed_dim": 192, "depths": (2, 2, 18, 2), "swin_heads": (6, 12, 24, 48), "window": 12},
}
