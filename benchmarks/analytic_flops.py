"""What the method has to compute, counted by hand from its sizes: matrix products and convolutions.

Nothing is read from the program, so that `benchmarks.cost_model` can hold the program against it. A
product (m, k) x (k, n) is 2 m k n FLOPs; its gradient costs as much for each factor that needs one.
What is not a product (normalisation, softmax, samples, the matching) is left out: some per cent.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

# Of VGGish: channels of its convolutions, and whether a pooling by two follows.
_VGGISH = ((64, True), (128, True), (256, False), (256, True), (512, False), (512, True))
_LEVELS, _POINTS, _CORNERS, _PROMPTS = 3, 4, 4, 3
PARTS = ("encoder", "audio_encoder", "pixel_decoder", "vta", "mask_decoder")
# What trains: AAVS's phases (method 3.8) with SSP's parts, or everything.
TRAINS = ("nothing", "phase1", "phase2", "all", "never")


@dataclasses.dataclass(frozen=True)
class Product:
    """FLOPs of a product, forward; which of its factors are weights, and what trains these.

    Attributes:
      weights: 'frozen' (but for `all`), 'new' (from phase 1 on), 'adapter' (Swin's, from phase 2
        on), or 'none': both factors are activations.
      fed: from which of `TRAINS` on trained parameters lie before it, 'never' before an input.
    """

    part: str
    flops: float
    weights: str = "frozen"
    fed: str = "phase1"


def step_flops(products: list[Product], trains: str, kept_features: bool = False) -> dict:
    """{part: FLOPs of a frame}, forward and backward, of a step that trains `trains`.

    `kept_features`: the encoder's maps are read.
    """
    totals = dict.fromkeys(PARTS, 0.0)
    when = {"frozen": "all", "new": "phase1", "adapter": "phase2"}
    for product in products:
        if kept_features and product.part == "encoder":
            continue
        inputs = _by(trains, product.fed)
        weights = inputs if product.weights == "none" else _by(trains, when[product.weights])
        totals[product.part] += product.flops * (1 + inputs + weights)
    return totals


def _by(trains: str, start: str) -> bool:
    return TRAINS.index(trains) >= TRAINS.index(start)


def products(
    sizes: Mapping[str, Any],
    *,
    frame_size: int,
    num_queries: int,
    num_classes: int,
    text_length: int = 0,
    passes: int = 1,
    post_mask_head: bool = False,
    prompted: bool = False,
) -> list[Product]:
    """Of one frame, the network of `sizes` (see ssp_jax/models/sizes.py).

    Args:
      text_length: L of the texts that VTA (`joint`, on stride 32) reads; 0: no VTA.
      passes: of the mask decoder, 2 where it prompts itself.
    """
    grid = frame_size // 4
    found = list(_encoder(sizes, grid)) + list(_audio(sizes)) + list(_pixel_decoder(sizes, grid))
    if text_length:
        found += _vta(sizes, grid, text_length)
    decoder = list(_mask_decoder(sizes, grid, num_queries, num_classes, prompted))
    # The first pass serves as a prompt only, without gradients.
    found += [dataclasses.replace(p, weights="frozen", fed="all") for p in decoder] * (passes - 1)
    found += decoder
    if post_mask_head:
        found += _mask_head(sizes["hidden"], grid, num_queries, "new")
    return found


def _encoder(sizes: Mapping[str, Any], grid: int) -> Iterator[Product]:
    width, area = sizes["embed_dim"], sizes["window"] ** 2
    yield Product("encoder", 2 * grid**2 * 48 * width, fed="never")
    for stage, depth in enumerate(sizes["depths"]):
        side = grid // 2**stage
        windows = -(-side // sizes["window"])
        tokens, padded, channels = side**2, windows**2 * area, width * 2**stage
        for _ in range(depth):
            # From the first block's adapter on, something trained lies before it.
            yield Product("encoder", 2 * padded * channels * 3 * channels, fed="phase2")
            yield Product("encoder", 2 * 2 * padded * area * channels, "none", "phase2")
            yield Product("encoder", 2 * padded * channels**2, fed="phase2")
            yield Product("encoder", 2 * tokens * channels * 8 * channels, fed="phase2")
            if sizes["adapters"]:
                down_and_up = 2 * 2 * tokens * channels * channels // 4
                yield Product("encoder", 2 * down_and_up, "adapter", "phase2")
        if stage + 1 < len(sizes["depths"]):
            yield Product("encoder", 2 * (tokens // 4) * 4 * channels * 2 * channels, fed="phase2")


def _audio(sizes: Mapping[str, Any]) -> Iterator[Product]:
    width, (time, bands), before = sizes["audio_width"], (96, 64), 1
    for channels, pooled in _VGGISH:
        after = int(channels * width)
        yield Product("audio_encoder", 2 * time * bands * 9 * before * after, fed="all")
        time, bands, before = time // (1 + pooled), bands // (1 + pooled), after
    dense = (time * bands * before, int(4096 * width), int(4096 * width), 128)
    for rows, columns in itertools.pairwise(dense):
        yield Product("audio_encoder", 2 * rows * columns, fed="all")
    for rows, columns in ((128, sizes["audio_hidden"]), (sizes["audio_hidden"], sizes["hidden"])):
        yield Product("audio_encoder", 2 * rows * columns, "new", "phase1")


def _adapted(part: str, rows: float, channels: int, mode: str) -> Iterator[Product]:
    """Output projection of a decoder's attention, with AAVS's adapter."""
    if mode != "replace":
        yield Product(part, 2 * rows * channels**2)
    if mode != "none":
        yield Product(part, 2 * 2 * rows * channels * channels // 4, "new")


def _pixel_decoder(sizes: Mapping[str, Any], grid: int) -> Iterator[Product]:
    part, channels, ffn = "pixel_decoder", sizes["hidden"], sizes["encoder_ffn"]
    sides = [grid // 8, grid // 4, grid // 2]
    tokens = sum(side**2 for side in sides)
    for level, side in enumerate(sides):
        width = sizes["embed_dim"] * 2 ** (3 - level)
        yield Product(part, 2 * side**2 * width * channels, fed="phase2")
    samples = sizes["heads"] * _LEVELS * _POINTS
    for layer in range(sizes["encoder_layers"]):
        # The first layer's attention has nothing trained before it in phase 1.
        fed = "phase1" if layer else "phase2"
        yield Product(part, 2 * tokens * channels * (3 * samples + channels), fed=fed)
        head = channels // sizes["heads"]
        yield Product(part, 2 * tokens * samples * _CORNERS * head, "none", fed)
        yield from _adapted(part, tokens, channels, sizes["decoder_adapter"])
        yield Product(part, 2 * 2 * tokens * channels * ffn)
    yield Product(part, 2 * grid**2 * sizes["embed_dim"] * channels, fed="phase2")
    yield Product(part, 2 * grid**2 * 9 * channels**2)
    yield Product(part, 2 * grid**2 * channels**2)


def _vta(sizes: Mapping[str, Any], grid: int, text_length: int) -> Iterator[Product]:
    part, width, ffn = "vta", sizes["bert_width"], sizes["bert_ffn"]
    visual = (grid // 8) ** 2
    tokens = visual + text_length
    yield Product(part, 2 * visual * sizes["embed_dim"] * 8 * width, "new", "phase2")
    for _ in range(2):
        for _ in range(sizes["bert_layers"]):
            yield Product(part, 2 * tokens * width * (4 * width + 2 * ffn))
            yield Product(part, 2 * 2 * tokens**2 * width, "none")
            yield Product(part, 2 * 2 * 2 * tokens * width * width // 4, "new")
        yield Product(part, 2 * visual * width * sizes["hidden"], "new")


def _mask_head(channels: int, grid: int, queries: int, weights: str) -> Iterator[Product]:
    yield Product("mask_decoder", 3 * 2 * queries * channels**2, weights)
    yield Product("mask_decoder", 2 * queries * channels * grid**2, "none")


def _mask_decoder(
    sizes: Mapping[str, Any], grid: int, queries: int, classes: int, prompted: bool
) -> Iterator[Product]:
    part, channels, ffn = "mask_decoder", sizes["hidden"], sizes["decoder_ffn"]
    for layer in range(sizes["decoder_layers"]):
        keys = (grid // (8, 4, 2)[layer % _LEVELS]) ** 2
        if prompted:
            yield Product(part, 2 * keys * _PROMPTS * channels, "new", "never")
        yield Product(part, 2 * 2 * (queries + keys) * channels**2)
        yield Product(part, 2 * 2 * queries * keys * channels, "none")
        yield Product(part, 2 * 3 * queries * channels**2)
        yield Product(part, 2 * 2 * queries**2 * channels, "none")
        yield from _adapted(part, queries, channels, sizes["decoder_adapter"])
        yield Product(part, 2 * 2 * queries * channels * ffn)
    for _ in range(sizes["decoder_layers"] + 1):
        yield Product(part, 2 * queries * channels * (classes + 1), "new")
        yield from _mask_head(channels, grid, queries, "frozen")
