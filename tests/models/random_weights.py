"""Random weights for transformers' classes; needs torch."""

from collections.abc import Mapping

import pytest

torch = pytest.importorskip("torch")  # skips the tests that need it


def randomise(model, factors: Mapping[str, float | None] | None = None, seed: int = 0):
    """Weights that let every part matter: no zeros, unit gain, norms that are not the identity.

    `factors`: of normal noise, for parameters whose name has the text; None leaves them as they
    are initialised. The first text that is found decides.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        named = [factor for text, factor in (factors or {}).items() if text in name]
        if named:
            noise = parameter.data if named[0] is None else named[0] * noise
        elif parameter.ndim > 1:
            noise = noise / parameter[0].numel() ** 0.5
        else:
            gain = "norm" in name.lower() and name.endswith("weight")
            noise = gain + 0.2 * noise
        parameter.data.copy_(noise)
    return model.eval()
