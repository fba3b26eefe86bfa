"""Names of VGGish's weights in the file `vggish-10086976.pth` (harritaylor/torchvggish)."""

from ssp_jax.models.vggish import VGGish
from ssp_jax.weights.rules import CONVOLUTION, Rule, affine
from ssp_jax.weights.shapes import param_shapes

# Where the layers stand in their sequences, between ReLUs and poolings.
_CONVOLUTIONS = (0, 3, 6, 8, 11, 13)
_DENSE = (0, 2, 4)

# The first dense layer needs no reordering: the original, too, flattens (time, band, channel).
RULES: tuple[Rule, ...] = (
    *(
        rule
        for index, number in enumerate(_CONVOLUTIONS)
        for rule in affine(f"features.{number}", f"audio_encoder/convolutions/{index}", CONVOLUTION)
    ),
    *(
        rule
        for index, number in enumerate(_DENSE)
        for rule in affine(f"embeddings.{number}", f"audio_encoder/dense/{index}")
    ),
)
# A saved module has its post-processing along, which AVS benchmarks leave out.
IGNORED = {
    "pproc.pca_matrix": "post-processing, not used",
    "pproc.pca_means": "post-processing, not used",
}
PCA_NAMES = {"pca_eigen_vectors", "pca_means"}


def shapes(width: float) -> dict[str, tuple[int, ...]]:
    """Shapes of `SSP.audio_encoder`'s parameters by path."""
    found = param_shapes(lambda rngs: VGGish(width=width, rngs=rngs))
    return {f"audio_encoder/{path}": shape for path, shape in found.items()}
