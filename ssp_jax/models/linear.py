"""Linear layers on the last axis."""

from flax import nnx
from jaxtyping import Array, Float

from ssp_jax.models.promotion import promoting


class Linear(nnx.Linear):
    """`nnx.Linear` that sees its input as a matrix of rows.

    With several leading axes the gradient of the kernel is a contraction over all of them, which
    XLA's CPU backend does outside of its fast matrix product: the same layer took twice as long.
    """

    def __call__(self, inputs: Float[Array, "*batch C"]) -> Float[Array, "*batch D"]:
        rows = promoting(super().__call__)(inputs.reshape(-1, inputs.shape[-1]))
        return rows.reshape(*inputs.shape[:-1], rows.shape[-1])
