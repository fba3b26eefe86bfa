import pickle
import shutil

import jax
import numpy as np
import pytest
from flax import nnx

from ssp_jax import clip_tokens
from ssp_jax.clip_tokens import add_clip_tokens, clip_facts, open_clip_tokens
from ssp_jax.data.sources import ClipSource
from ssp_jax.data.transforms import decode_frame
from ssp_jax.errors import UserError
from ssp_jax.models.clip_vision import ClipVision, clip_input
from ssp_jax.weights import clip_vision
from ssp_jax.weights.aavs import nested
from ssp_jax.weights.folder import save_weights

MODEL = {"width": 8, "layers": 1, "heads": 2, "ffn": 12, "patch": 4, "image_size": 12}


def params(seed=0):
    random = np.random.default_rng(seed)
    shapes = clip_vision.shapes(MODEL)
    return {path: random.normal(0, 0.5, s).astype(np.float32) for path, s in shapes.items()}


def save(folder, arrays, source="clip_vision", model=MODEL):
    arrays = {clip_vision.ROOT + path: value for path, value in arrays.items()}
    save_weights(folder, arrays, {"source": source, "model": model})
    return folder


@pytest.fixture
def weights(tmp_path):
    return save(tmp_path / "clip", params())


@pytest.fixture
def own(prepared, tmp_path):
    """A copy of the data set, to which tokens may be added."""
    return shutil.copytree(prepared, str(tmp_path / "tiny"))


@jax.jit
def _encoded(params, frames):
    graphdef = nnx.graphdef(ClipVision(**MODEL, rngs=nnx.Rngs(0)))
    tokens, _ = nnx.merge(graphdef, params)(clip_input(frames, MODEL["image_size"]))
    return tokens[:, 1:].reshape(-1, 3, 3, 8)


def direct(source, index, arrays):
    clip = source[index]
    frames = [decode_frame(f, 12, where="") for f in clip.frames[: len(clip.labels)]]
    filled = np.zeros((10, 12, 12, 3), np.uint8)
    filled[: len(frames)] = frames
    return np.asarray(_encoded(nested(arrays), filled))[: len(frames)]


def test_tokens_are_those_of_the_annotated_frames(own, weights):
    source = ClipSource([(own, "train"), (own, "unlabelled")])
    add_clip_tokens(source, weights, batch_size=8, progress=False)  # 34 frames
    store = open_clip_tokens(source, weights)
    assert pickle.loads(pickle.dumps(store)) == store
    assert store.shape == (3, 3, 8)
    for index in reversed(range(len(source))):
        tokens = store.read(index)
        assert tokens.dtype == np.float16
        assert tokens.shape == (source.table.num_annotated[index], 3, 3, 8)
        if len(tokens):
            expected = direct(source, index, params())
            assert expected.std() > 0.1
            np.testing.assert_allclose(tokens, expected, rtol=2e-3, atol=2e-3)
    with pytest.raises(IndexError, match="9 of 9"):
        store.read(9)


def test_one_program_and_it_goes_on_where_it_was_stopped(own, weights, monkeypatch):
    monkeypatch.setattr(clip_tokens, "CLIPS_PER_SHARD", 2)
    source = ClipSource([(own, "test")])
    with pytest.raises(UserError, match=r"test: no CLIP's tokens here yet\. To go on, run "):
        open_clip_tokens(source, weights)
    calls, make = [], clip_tokens.make_encoder

    def counting(folder, stop_at=None):
        encode = make(folder)

        def counted(frames):
            calls.append(frames.shape)
            if len(calls) == stop_at:
                raise KeyboardInterrupt
            return encode(frames)

        return counted

    monkeypatch.setattr(clip_tokens, "make_encoder", lambda folder: counting(folder, 4))
    with pytest.raises(KeyboardInterrupt):
        add_clip_tokens(source, weights, batch_size=4, progress=False)
    with pytest.raises(UserError, match="half written, 2 of 5 clips") as error:
        open_clip_tokens(source, weights)
    assert f"clip-{clip_facts(weights)['weights'][:8]}/test" in str(error.value)
    calls.clear()
    monkeypatch.setattr(clip_tokens, "make_encoder", counting)
    add_clip_tokens(source, weights, batch_size=4, progress=False)
    assert calls == [(4, 12, 12, 3)] * 4  # 15 frames of three clips
    add_clip_tokens(source, weights, batch_size=4, progress=False)
    assert len(calls) == 4
    for index in (0, 2, 4):
        tokens = open_clip_tokens(source, weights).read(index)
        np.testing.assert_allclose(tokens, direct(source, index, params()), rtol=2e-3, atol=2e-3)


def test_tokens_of_other_weights_lie_apart(own, weights, tmp_path):
    source = ClipSource([(own, "train_v1s")])
    other = save(tmp_path / "other", params(1))
    for folder in (weights, other):
        add_clip_tokens(source, folder, progress=False)
    ours, theirs = (open_clip_tokens(source, folder).read(0) for folder in (weights, other))
    assert np.abs(ours - theirs).max() > 0.1
    np.testing.assert_allclose(theirs, direct(source, 0, params(1)), rtol=2e-3, atol=2e-3)
    # The same arrays, used as another network.
    heads = save(tmp_path / "heads", params(), model=MODEL | {"heads": 4})
    with pytest.raises(UserError, match=r"other settings \(model: .*'heads': 2.*'heads': 4"):
        add_clip_tokens(source, heads, progress=False)


def test_bad_input_is_named(own, weights, tmp_path):
    source = ClipSource([(own, "train_v1s")])
    fewer = {path: value for path, value in params().items() if path != "class_embedding"}
    large = params() | {"layers/0/ffn_out/bias": np.full(8, 1e6, np.float32)}
    for folder, message in (
        (tmp_path / "nowhere", "Expected a weight folder"),
        (save(tmp_path / "bert", {}, source="bert"), "imported as bert, expected .*=clip_vision"),
        (save(tmp_path / "none", params(), model={"side": 1}), "tells no model"),
        (save(tmp_path / "fewer", fewer), "1 arrays .* clip_vision/class_embedding"),
        (save(tmp_path / "large", large), "-clip0: its tokens do not fit float16"),
    ):
        with pytest.raises(UserError, match=message):
            add_clip_tokens(source, folder, progress=False)
    with pytest.raises(UserError, match=r"-clip0, frame 2: cannot be decoded"):
        add_clip_tokens(ClipSource([(own, "damaged_frame")]), weights, progress=False)
