"""VGGish against a PyTorch twin with the same weights."""

import numpy as np
import pytest
from flax import nnx

from ssp_jax.models.vggish import VGGish


@pytest.mark.parametrize("final_relu", [False, True])
def test_parity_with_a_torch_twin(final_relu):
    torch = pytest.importorskip("torch")
    model = VGGish(width=1 / 32, final_relu=final_relu, rngs=nnx.Rngs(0))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    log_mel = np.random.default_rng(0).normal(-2, 1.5, (3, 96, 64)).astype(np.float32)

    x = torch.from_numpy(log_mel)[:, None]
    for index, pooled in enumerate((True, True, False, True, False, True)):
        layer = params["convolutions"][index]
        kernel = torch.from_numpy(np.array(layer["kernel"]).transpose(3, 2, 0, 1).copy())
        bias = torch.from_numpy(np.array(layer["bias"]))
        x = torch.relu(torch.nn.functional.conv2d(x, kernel, bias, padding=1))
        x = torch.nn.functional.max_pool2d(x, 2) if pooled else x
    x = x.permute(0, 2, 3, 1).flatten(1)  # the order of VGGish's first dense layer
    for index in range(3):
        layer = params["dense"][index]
        x = x @ torch.from_numpy(np.array(layer["kernel"])) + torch.from_numpy(
            np.array(layer["bias"])
        )
        x = torch.relu(x) if index < 2 or final_relu else x

    ours = np.asarray(nnx.jit(model)(log_mel))
    assert (ours.min() < 0) != final_relu
    np.testing.assert_allclose(ours, x.numpy(), atol=1e-4 * np.abs(x.numpy()).max())


def test_full_width_is_vggish():
    model = nnx.eval_shape(lambda: VGGish(rngs=nnx.Rngs(0)))
    kernels = [layer.kernel.shape for layer in [*model.convolutions, *model.dense]]
    assert kernels == [
        (3, 3, 1, 64),
        (3, 3, 64, 128),
        (3, 3, 128, 256),
        (3, 3, 256, 256),
        (3, 3, 256, 512),
        (3, 3, 512, 512),
        (12288, 4096),
        (4096, 4096),
        (4096, 128),
    ]
