"""VGGish from a file of torchvggish's names against a PyTorch twin that holds these weights."""

import os

import jax
import numpy as np
import pytest
from flax import nnx

from ssp_jax.models.vggish import VGGish
from ssp_jax.weights.aavs import nested
from ssp_jax.weights.folder import load_facts, load_weights
from ssp_jax.weights.importing import import_weights
from ssp_jax.weights.shapes import abstract
from ssp_jax.weights.verify import relative_error

torch = pytest.importorskip("torch")


def twin(width):
    """Layers under the names of vggish-10086976.pth: `features.*`, `embeddings.*`."""
    layers, source = [], 1
    for channels, pooled in ((64, 1), (128, 1), (256, 0), (256, 1), (512, 0), (512, 1)):
        channels = int(channels * width)
        layers += [torch.nn.Conv2d(source, channels, 3, padding=1), torch.nn.ReLU()]
        layers += [torch.nn.MaxPool2d(2)] * pooled
        source = channels
    dense = int(4096 * width)
    embeddings = torch.nn.Sequential(
        torch.nn.Linear(6 * 4 * source, dense),
        torch.nn.ReLU(),
        torch.nn.Linear(dense, dense),
        torch.nn.ReLU(),
        torch.nn.Linear(dense, 128),
        torch.nn.ReLU(),
    )
    features = torch.nn.Sequential(*layers)
    model = torch.nn.ModuleDict({"features": features, "embeddings": embeddings})
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        scale = (2 / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.1
        parameter.data.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model


full = pytest.mark.skipif(
    os.environ.get("SSP_JAX_FULL_PARITY") != "1", reason="real size: SSP_JAX_FULL_PARITY=1"
)


@pytest.mark.parametrize("width", [1 / 32, pytest.param(1.0, marks=full)])
def test_a_file_of_torchvggish(tmp_path, width):
    model = twin(width)
    torch.save(model.state_dict(), tmp_path / "vggish-10086976.pth")
    import_weights("vggish", tmp_path / "vggish-10086976.pth", tmp_path / "w")
    log_mel = np.random.default_rng(0).normal(-2, 1.5, (2, 96, 64)).astype(np.float32)
    with torch.no_grad():
        x = model["features"](torch.from_numpy(log_mel)[:, None])
        # The file's dense layers expect (time, band, channel), as TensorFlow flattens.
        theirs = model["embeddings"](x.permute(0, 2, 3, 1).flatten(1)).numpy()

    assert load_facts(tmp_path / "w")["model"] == {"audio_width": width}
    model = abstract(lambda rngs: VGGish(width=width, final_relu=True, rngs=rngs))
    graphdef, _ = nnx.split(model, nnx.Param)
    prefix = "network/audio_encoder/"
    weights = {k.removeprefix(prefix): v for k, v in load_weights(tmp_path / "w").items()}
    with jax.default_matmul_precision("highest"):
        ours = jax.jit(lambda weights, x: nnx.merge(graphdef, weights)(x))
        ours = np.asarray(ours(nested(weights), log_mel))
    assert 0 < (theirs > 0).mean() < 1
    assert relative_error(ours, theirs) <= 1e-4
