"""Sizes and inputs at which the network is compared with transformers' classes."""

import os

import pytest

TOLERANCE = 1e-4
STAGES = [f"stage{stage}" for stage in range(1, 5)]
# Of microsoft/swin-base-patch4-window12-384 and facebook/mask2former-swin-base-ade-semantic.
SWIN_B = {
    "embed_dim": 128,
    "depths": [2, 2, 18, 2],
    "num_heads": [4, 8, 16, 32],
    "window_size": 12,
}
full = pytest.mark.skipif(
    os.environ.get("SSP_JAX_FULL_PARITY") != "1", reason="real size: SSP_JAX_FULL_PARITY=1"
)


def cases(tiny_square: int) -> list:
    """(size, (height, width)): windows that fit, and ones that need padding everywhere."""
    return [
        ("tiny", (tiny_square, tiny_square)),
        ("tiny", (100, 134)),
        pytest.param("swin-b", (384, 384), marks=full),
        pytest.param("swin-b", (200, 264), marks=full),
    ]
