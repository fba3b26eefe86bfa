"""Tiles that cover an image of any size and blend, and the estimator of a weight folder."""

import jax
import numpy as np
import pytest
from flax import nnx

from ssp_jax.errors import UserError
from ssp_jax.flow.perceiver import (
    SOURCE,
    border_distance,
    make_perceiver_flow,
    tile_starts,
    tiled_flow,
)
from ssp_jax.models.perceiver_flow import PerceiverFlow
from ssp_jax.weights.aavs import nested
from ssp_jax.weights.folder import WEIGHTS, save_weights
from ssp_jax.weights.perceiver_flow import ROOT, shapes
from ssp_jax.weights.shapes import abstract

TILE = (12, 17)
ARGUMENTS = {"size": TILE, "latents": 6, "channels": 8, "layers": 1, "heads": 2, "bands": 3}
ARGUMENTS |= {"cross_heads": 1, "patch_channels": 4}
# A tile, odd, one axis too small, both, a single pixel.
IMAGES = [TILE, (13, 18), (31, 47), (100, 90), (5, 40), (40, 9), (7, 5), (1, 1)]


def test_tiles_cover_an_axis():
    for length in range(12, 80):
        for overlap in (0, 1, 5, 11):
            starts = tile_starts(length, 12, overlap)
            ends = [start + 12 for start in starts]
            assert starts[0] == 0
            assert ends[-1] == length
            overlaps = [end - start for end, start in zip(ends, starts[1:], strict=False)]
            assert all(overlap <= shared < 12 for shared in overlaps)
    assert tile_starts(436, 368, 20) == [0, 68]
    assert tile_starts(1024, 496, 20) == [0, 476, 528]
    for overlap in (-1, 12, 20):
        with pytest.raises(ValueError, match="overlap"):
            tile_starts(40, 12, overlap)


def test_border_distance():
    expected = [[1, 1, 1, 1, 1], [1, 2, 2, 2, 1], [1, 1, 1, 1, 1]]
    np.testing.assert_array_equal(border_distance((3, 5)), expected)


@pytest.mark.parametrize("shape", IMAGES)
@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_constant_flow_stays_constant(shape, batch_size):
    called = []

    def estimate(pairs):
        called.append(pairs.shape)
        return np.broadcast_to(np.float32([3.0, -2.0]), (*pairs.shape[:1], *TILE, 2))

    image = np.zeros((*shape, 3), np.uint8)
    flow = tiled_flow(estimate, image, image, tile=TILE, overlap=5, batch_size=batch_size)
    assert set(called) == {(batch_size, 2, *TILE, 3)}
    assert flow.dtype == np.float32
    assert flow.shape == (*shape, 2)
    scale = np.minimum(1, [shape[1] / TILE[1], shape[0] / TILE[0]])
    np.testing.assert_allclose(flow, np.broadcast_to([3, -2] * scale, flow.shape), rtol=1e-5)


@pytest.mark.parametrize("shape", IMAGES)
@pytest.mark.parametrize("batch_size", [1, 4])
def test_what_tiles_agree_on_stitches_exactly(shape, batch_size):
    """Images hold their pixels' coordinates, and the estimator says what it sees."""
    rows, columns = np.indices(shape)
    first = np.stack([columns, rows, 0 * rows], axis=-1).astype(np.uint8)
    second = np.stack([255 - rows, 255 - columns, 0 * rows], axis=-1).astype(np.uint8)
    for index, image in enumerate((first, second)):
        flow = tiled_flow(
            lambda pairs, index=index: pairs[:, index, ..., :2],
            first,
            second,
            tile=TILE,
            overlap=5,
            batch_size=batch_size,
        )
        scale = np.minimum(1, [shape[1] / TILE[1], shape[0] / TILE[0]])
        # To the tile's size and back keeps a slope, but for the half pixels at the ends.
        inner = tuple(
            slice(1, -1) if n < t else slice(None) for n, t in zip(shape, TILE, strict=True)
        )
        np.testing.assert_allclose(
            flow[inner], (image[..., :2] * scale)[inner], rtol=1e-5, atol=1e-3
        )


def test_images_that_are_none():
    image = np.zeros((20, 30, 3), np.uint8)
    for first, second, message in (
        (image, image[1:], "shapes"),
        (image[..., 0], image[..., 0], "shapes"),
        (image[:0], image[:0], "shapes"),
        (image, image.astype(np.float32), "float32"),
    ):
        with pytest.raises(ValueError, match=message):
            tiled_flow(lambda pairs: pairs[:, 0, ..., :2], first, second, tile=TILE, overlap=5)


def random_params():
    random = np.random.default_rng(0)
    return {
        path: random.normal(0, 0.3, shape).astype(np.float32)
        for path, shape in shapes(ARGUMENTS).items()
    }


def save(folder, params, source=SOURCE, arguments=ARGUMENTS):
    arrays = {ROOT + path: value for path, value in params.items()}
    save_weights(folder, arrays, {"source": source, "model": arguments})
    return folder


def test_the_estimator_of_a_folder(tmp_path):
    params = random_params()
    folder = save(tmp_path / "w", params)
    first, second = np.random.default_rng(1).integers(0, 256, (2, *TILE, 3)).astype(np.uint8)
    graphdef, _ = nnx.split(abstract(lambda rngs: PerceiverFlow(**ARGUMENTS, rngs=rngs)), nnx.Param)
    pair = np.stack([first, second])[None] / np.float32(255) * 2 - 1
    expected = jax.jit(lambda p, x: nnx.merge(graphdef, p)(x))(nested(params), pair)[0]
    assert np.asarray(expected).std() > 0.01
    by_one = make_perceiver_flow(folder, overlap=5)
    np.testing.assert_allclose(by_one(first, second), expected, rtol=1e-4, atol=1e-5)

    large = np.random.default_rng(2).integers(0, 256, (2, 30, 41, 3)).astype(np.uint8)
    by_four = make_perceiver_flow(folder, overlap=5, batch_size=4)
    np.testing.assert_allclose(by_one(*large), by_four(*large), rtol=1e-4, atol=1e-5)
    corner = by_one(*large[:, : TILE[0], : TILE[1]])
    np.testing.assert_allclose(by_one(*large)[:5, :5], corner[:5, :5], rtol=1e-4, atol=1e-5)


def test_the_model_has_one_size():
    model = abstract(lambda rngs: PerceiverFlow(**ARGUMENTS, rngs=rngs))
    with pytest.raises(ValueError, match=r"expected \(N, 2, 12, 17, 3\)"):
        model.pixels(np.zeros((1, 2, 17, 12, 3)))


def test_other_folders_are_refused(tmp_path):
    params = random_params()
    fewer = {path: value for path, value in params.items() if path != "latents"}
    other = {"network/audio_encoder/dense/0/bias": np.zeros(3)}
    save_weights(tmp_path / "vggish", other, {"source": "vggish", "model": {"audio_width": 1.0}})
    damaged = save(tmp_path / "damaged", params)
    (damaged / WEIGHTS).write_bytes((damaged / WEIGHTS).read_bytes()[:-9])
    for folder, message in (
        (tmp_path / "vggish", "imported as vggish.*--source=perceiver_flow"),
        (tmp_path / "nowhere", "expected a weight folder"),
        (save(tmp_path / "fewer", fewer), "1 arrays .* perceiver_flow/latents"),
        (save(tmp_path / "size", params, arguments=ARGUMENTS | {"latents": 7}), "latents"),
        (save(tmp_path / "heads", params, arguments=ARGUMENTS | {"heads": 3}), "3 heads"),
        (save(tmp_path / "none", params, arguments={"audio_width": 1.0}), "tells no model"),
        (damaged, "truncated"),
    ):
        with pytest.raises(UserError, match="(?i)" + message):
            make_perceiver_flow(folder)
