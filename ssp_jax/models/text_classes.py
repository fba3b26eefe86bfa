"""Which classes do a clip's texts speak of (ours)."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from ssp_jax.models.linear import Linear


class TextClasses(nnx.Module):
    """Logits of the classes from the words of A2, the same for every query of the clip.

    What no word of A2 speaks of hardly sounds. VTA alone did not learn that in the time there was
    (`benchmarks.selection`, "never sounding taken"); as a sum of what every word says of every
    class, it is a linear model. All is zero at first, and for a clip without words always.
    Background and "no object" get none: they win where no class does.

    Args:
      text_width: E of the words. num_classes: K, background included.
    """

    def __init__(self, text_width: int, num_classes: int, *, rngs: nnx.Rngs):
        zero = nnx.initializers.zeros_init()
        self.words = Linear(text_width, num_classes - 1, kernel_init=zero, rngs=rngs)

    def __call__(
        self, words: Float[Array, "N L E"], counted: Bool[Array, "N L"]
    ) -> Float[Array, "N 1 K1"]:
        """Return what adds to class logits (N, Q, K + 1), of the words that count."""
        said = self.words(words)
        said = (said * counted.astype(said.dtype)[..., None]).sum(1, keepdims=True)
        return jnp.pad(said, ((0, 0), (0, 0), (1, 1)))
