"""What is computed once for a clip before training: seconds, beside PyTorch where it has the same.

    python -m benchmarks.preparation [--what=perceiver,dis,...] [--rounds=3]

A clip is five frames of 224 px with their sound: four flows, five frames for CLIP, five windows of
sound for VGGish, a pair of texts. Models have the published sizes and random weights, which
transformers' classes draw and the project imports; both sides take turns in this process, and what
they compute is compared (VGGish has other random weights on each side). Needs the extra `parity`.
Texts by a multimodal model are not here: that needs its weights and a GPU.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import app, flags
from flax import nnx

from ssp_jax.clip_tokens import make_encoder
from ssp_jax.data.log_mel import SAMPLE_RATE, log_mel_windows
from ssp_jax.flow.estimators import make_estimator
from ssp_jax.flow.perceiver import make_perceiver_flow
from ssp_jax.flow.store import neighbour_flows
from ssp_jax.models.clip_vision import CLIP_MEAN, CLIP_STD
from ssp_jax.models.vggish import VGGish
from ssp_jax.prompts.tokeniser import train_tokeniser
from ssp_jax.weights.importing import import_weights

_WHAT = flags.DEFINE_list("what", ["dis", "perceiver", "clip", "vggish", "texts"], "Rows.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Timed turns of each, after one that is not.", 1)
_FRAMES, _SIDE, _MAX_LENGTH = 5, 224, 64
_FLOW_TILE = 368, 496


class Row(NamedTuple):
    """Both sides of a row, `times` of which make a clip; what is to be compared they return."""

    title: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any] | None = None
    times: int = 1


def _frames(rng: np.random.Generator, height: int, width: int) -> list[np.ndarray]:
    """Noise that moves two pixels a frame."""
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    return [np.roll(image, 2 * second, 1) for second in range(_FRAMES)]


def _dis(folder: Path, rng: np.random.Generator) -> Row:
    estimate, frames = make_estimator("dis").make(), _frames(rng, _SIDE, _SIDE)
    return Row(
        "flow, DIS, stored at 112",
        lambda: neighbour_flows(frames, estimate, 112, where="the benchmark"),
    )


def _perceiver(folder: Path, rng: np.random.Generator) -> Row:
    import torch
    import transformers

    model = transformers.PerceiverForOpticalFlow(
        transformers.PerceiverConfig(
            num_latents=2048,
            d_latents=512,
            d_model=322,
            num_self_attends_per_block=24,
            num_self_attention_heads=16,
            num_cross_attention_heads=1,
            train_size=list(_FLOW_TILE),
        )
    ).eval()
    model.save_pretrained(folder / "hub")
    import_weights("perceiver_flow", folder / "hub", folder / "imported")
    flow = make_perceiver_flow(folder / "imported")
    one, two, *_ = _frames(rng, *_FLOW_TILE)
    pair = np.stack([one, two]).astype(np.float32).transpose(0, 3, 1, 2) / 255 * 2 - 1

    def theirs():
        # Its input are 3 x 3 neighbourhoods, (row, column, colour).
        patches = torch.nn.functional.unfold(torch.from_numpy(pair), 3, padding=1)
        patches = patches.reshape(2, 3, 9, -1).transpose(1, 2).reshape(1, 2, 27, *_FLOW_TILE)
        with torch.no_grad():
            # It leaves out DeepMind's factor to pixels.
            return 20 * model(inputs=patches).logits[0].numpy()

    # Smaller frames are stretched to the tile, so their flow costs the same.
    return Row("flow, Perceiver IO", lambda: flow(one, two), theirs, times=_FRAMES - 1)


def _clip(folder: Path, rng: np.random.Generator) -> Row:
    import torch
    import transformers

    model = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(patch_size=16)).eval()
    model.save_pretrained(folder / "hub")
    import_weights("clip_vision", folder / "hub", folder / "imported")
    encode, frames = make_encoder(folder / "imported"), np.stack(_frames(rng, _SIDE, _SIDE))

    def theirs():
        pixels = ((frames / 255 - CLIP_MEAN) / CLIP_STD).astype(np.float32)
        with torch.no_grad():
            tokens = model(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()))
        return tokens.last_hidden_state[:, 1:].numpy().reshape(_FRAMES, 14, 14, -1)

    return Row("tokens of CLIP ViT-B/16", lambda: encode(frames), theirs)


def _vggish(folder: Path, rng: np.random.Generator) -> Row:
    import torch

    from benchmarks import peer

    sound = rng.integers(-3000, 3000, 5 * SAMPLE_RATE, np.int16)
    graphdef, params = nnx.split(VGGish(rngs=nnx.Rngs(0)))
    apply = jax.jit(lambda params, windows: nnx.merge(graphdef, params)(windows))
    model = peer.vggish()

    def theirs():
        with torch.no_grad():
            windows = torch.from_numpy(log_mel_windows(sound)[:_FRAMES, None])
            model(windows.float())

    return Row(
        "sound by VGGish",
        lambda: jax.block_until_ready(apply(params, log_mel_windows(sound)[:_FRAMES])),
        theirs,
    )


def _texts(folder: Path, rng: np.random.Generator) -> Row:
    words = [f"word{number}" for number in range(1000)]
    pair = tuple(" ".join(rng.choice(words, 25)) for _ in range(2))
    tokeniser = train_tokeniser([pair, tuple(words[:2])], folder)
    return Row("two texts to tokens", lambda: tokeniser.encode_pairs([pair], _MAX_LENGTH))


_ROWS = {"dis": _dis, "perceiver": _perceiver, "clip": _clip, "vggish": _vggish, "texts": _texts}


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main(argv):
    """Prints the table, a row as soon as it is done."""
    print("| a clip of five frames | ssp_jax, s | PyTorch, s | ratio | outputs differ by |")
    print("|---|---|---|---|---|")
    for name in _WHAT.value:
        with tempfile.TemporaryDirectory() as folder:
            row = _ROWS[name](Path(folder), np.random.default_rng(0))
            sides = [side for side in (row.ours, row.theirs) if side]
            first = [side() for side in sides]
            turns = [[_seconds(side) for side in sides] for _ in range(_ROUNDS.value)]
        medians = [row.times * statistics.median(side) for side in zip(*turns, strict=True)]
        cells = [row.title, f"{medians[0]:.4f}", "", "", ""]
        if row.theirs:
            cells[2:4] = f"{medians[1]:.4f}", f"{medians[0] / medians[1]:.2f}"
            if first[1] is not None:
                error = np.abs(first[0] - first[1]).max() / np.abs(first[1]).max()
                cells[4] = f"{error:.1e}"
        print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    app.run(main)
