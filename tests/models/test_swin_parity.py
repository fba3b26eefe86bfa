"""Swin against PyTorch, map by map: transformers' backbone and Microsoft's names and layout."""

import jax
import numpy as np
import pytest
from flax import nnx
from parity_cases import STAGES, SWIN_B, TOLERANCE, cases
from random_weights import randomise
from safetensors.numpy import save_file

from ssp_jax.models.swin import Swin
from ssp_jax.weights.aavs import nested, position_index
from ssp_jax.weights.folder import load_facts, load_weights
from ssp_jax.weights.importing import import_weights
from ssp_jax.weights.shapes import abstract
from ssp_jax.weights.verify import relative_error

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = {
    "tiny": {"embed_dim": 16, "depths": [2, 1, 2, 2], "num_heads": [1, 2, 2, 4], "window_size": 4},
    "swin-b": SWIN_B,
}


def encoder(folder):
    """`Swin` with the weights of a folder, adapters left out; missing norms do nothing."""
    model = load_facts(folder)["model"]
    arguments = {
        "embed_dim": model["embed_dim"],
        "depths": model["depths"],
        "num_heads": model["swin_heads"],
        "window": model["window"],
    }
    swin = abstract(lambda rngs: Swin(**arguments, adapters=False, rngs=rngs))
    graphdef, _ = nnx.split(swin, nnx.Param)
    weights = {}
    for level in range(4):
        channels = model["embed_dim"] * 2**level
        weights[f"output_norms/{level}/scale"] = np.ones(channels, np.float32)
        weights[f"output_norms/{level}/bias"] = np.zeros(channels, np.float32)
    prefix = "network/encoder/"
    weights |= {k.removeprefix(prefix): v for k, v in load_weights(folder).items()}
    params = nested(weights)

    @jax.jit
    def apply(params, frames):
        with jax.default_matmul_precision("highest"):
            return nnx.merge(graphdef, params)(frames)

    return lambda frames: apply(params, frames)


@pytest.mark.parametrize(("size", "shape"), cases(112))
def test_transformers_backbone(tmp_path, size, shape):
    config = transformers.SwinConfig(**SIZES[size], drop_path_rate=0.0, out_features=STAGES)
    model = randomise(transformers.SwinBackbone(config))
    model.save_pretrained(tmp_path / "hub")
    import_weights("swin", tmp_path / "hub", tmp_path / "w")
    frames = np.random.default_rng(0).normal(size=(1, *shape, 3)).astype(np.float32)
    with torch.no_grad():
        maps = model(torch.from_numpy(frames.transpose(0, 3, 1, 2).copy())).feature_maps
    ours = encoder(tmp_path / "w")(frames)
    errors = [
        relative_error(np.moveaxis(np.asarray(level), -1, 1), theirs.numpy())
        for level, theirs in zip(ours, maps, strict=True)
    ]
    print(f"{size} {shape}: {[f'{error:.1e}' for error in errors]}")
    assert max(errors) <= TOLERANCE


def microsoft_state(embed_dim, window, heads, seed=0):
    """Weights of a Swin with one block a stage under the names of Microsoft's files."""
    random = np.random.default_rng(seed)
    state = {}

    def affine(name, *shape, bias=True):
        inner = np.prod(shape[1:]) ** 0.5
        state[f"{name}.weight"] = (random.normal(size=shape) / inner).astype(np.float32)
        if bias:
            state[f"{name}.bias"] = random.normal(0, 0.2, shape[0]).astype(np.float32)

    def norm(name, channels):
        state[f"{name}.weight"] = random.normal(1, 0.2, channels).astype(np.float32)
        state[f"{name}.bias"] = random.normal(0, 0.2, channels).astype(np.float32)

    affine("patch_embed.proj", embed_dim, 3, 4, 4)
    norm("patch_embed.norm", embed_dim)
    for stage, number in enumerate(heads):
        channels, block = embed_dim * 2**stage, f"layers.{stage}.blocks.0."
        norm(block + "norm1", channels)
        affine(block + "attn.qkv", 3 * channels, channels)
        affine(block + "attn.proj", channels, channels)
        table = random.normal(size=((2 * window - 1) ** 2, number)).astype(np.float32)
        state[block + "attn.relative_position_bias_table"] = table
        state[block + "attn.relative_position_index"] = position_index(window)
        norm(block + "norm2", channels)
        affine(block + "mlp.fc1", 4 * channels, channels)
        affine(block + "mlp.fc2", channels, 4 * channels)
        if stage < 3:
            affine(f"layers.{stage}.downsample.reduction", 2 * channels, 4 * channels, bias=False)
            norm(f"layers.{stage}.downsample.norm", 4 * channels)
    norm("norm", 8 * embed_dim)
    affine("head", 5, 8 * embed_dim)
    return state


def microsoft_features(state, frames, window, heads):
    """What such a network computes before its pooling (N, h, w, C): all windows unshifted."""
    state = {name: torch.from_numpy(np.asarray(value)) for name, value in state.items()}
    functional = torch.nn.functional

    def linear(name, x):
        return functional.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def norm(name, x):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return functional.layer_norm(x, x.shape[-1:], weight, bias)

    def attention(name, x, number):
        batch, height, width, channels = x.shape
        rows, columns = height // window, width // window
        x = x.reshape(batch, rows, window, columns, window, channels).transpose(2, 3)
        x = x.reshape(-1, window**2, channels)
        query, key, value = (
            part.unflatten(-1, (number, -1)).transpose(1, 2)
            for part in linear(f"{name}.qkv", x).chunk(3, dim=-1)
        )
        logits = query @ key.transpose(-1, -2) * (channels // number) ** -0.5
        bias = state[f"{name}.relative_position_bias_table"]
        bias = bias[state[f"{name}.relative_position_index"]].permute(2, 0, 1)
        x = ((logits + bias).softmax(-1) @ value).transpose(1, 2).flatten(2)
        x = linear(f"{name}.proj", x).reshape(batch, rows, columns, window, window, channels)
        return x.transpose(2, 3).reshape(batch, height, width, channels)

    x = torch.from_numpy(frames.transpose(0, 3, 1, 2).copy())
    x = functional.conv2d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], 4)
    x = norm("patch_embed.norm", x.permute(0, 2, 3, 1))
    for stage, number in enumerate(heads):
        block = f"layers.{stage}.blocks.0."
        x = x + attention(block + "attn", norm(block + "norm1", x), number)
        hidden = functional.gelu(linear(block + "mlp.fc1", norm(block + "norm2", x)))
        x = x + linear(block + "mlp.fc2", hidden)
        if stage < 3:
            # Top left, bottom left, top right, bottom right of every four neighbours.
            corners = [x[:, down::2, right::2] for right in (0, 1) for down in (0, 1)]
            x = norm(f"layers.{stage}.downsample.norm", torch.cat(corners, dim=-1))
            x = linear(f"layers.{stage}.downsample.reduction", x)
    return norm("norm", x)


def test_microsoft_names(tmp_path):
    window, heads = 4, (1, 2, 2, 4)
    state = microsoft_state(16, window, heads)
    save_file(state, tmp_path / "swin.safetensors")
    import_weights("swin-original", tmp_path / "swin.safetensors", tmp_path / "w")
    frames = np.random.default_rng(0).normal(size=(2, 128, 256, 3)).astype(np.float32)
    theirs = microsoft_features(state, frames, window, heads).numpy()
    assert relative_error(np.asarray(encoder(tmp_path / "w")(frames)[-1]), theirs) <= TOLERANCE
