import functools
import itertools
import logging
import pickle
import shutil
from collections import namedtuple
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from ssp_jax import kept_features
from ssp_jax.batch import BACKBONE, normalised_frames
from ssp_jax.data.beside import Beside
from ssp_jax.data.pipeline import train_batches
from ssp_jax.data.reader import ReadSpec
from ssp_jax.data.sources import ClipSource
from ssp_jax.data.transforms import decode_frame
from ssp_jax.errors import UserError
from ssp_jax.kept_features import check_kept_features, feature_shapes, keep_features
from ssp_jax.models.network import TrainedNetwork
from ssp_jax.sharding import make_mesh
from ssp_jax.train_state import split_model
from tests.tiny_run import TINY_MODEL, get_config

SIZE = 32
SHAPES = ((8, 8, 16), (4, 4, 32), (2, 2, 64), (1, 1, 128))
FRAME_BYTES = 4 * 1920


@pytest.fixture(scope="module")
def network():
    """Graph and parameters, with adapters that add nothing yet."""
    graphdef, init = split_model(
        lambda rngs: TrainedNetwork(
            2,
            size="small",
            num_queries=3,
            num_sounds=0,
            listen={"sounds": 0.0, "map": 0.0, "contrast": 0.0},
            overrides=TINY_MODEL | {"adapters": True, "decoder_trains_features": True},
            rngs=rngs,
        )
    )
    random = np.random.default_rng(0)

    def value(path, leaf):
        zero = jax.tree_util.keystr(path).find("_adapter']['up']") > 0
        return (random.normal(0, 0.2, leaf.shape) * (not zero)).astype(np.float32)

    shapes = jax.eval_shape(init, jax.random.key(0))
    return graphdef, jax.tree_util.tree_map_with_path(value, shapes)


@pytest.fixture
def own(prepared, tmp_path):
    """A copy of the data set, to which features may be added."""
    return shutil.copytree(prepared, str(tmp_path / "tiny"))


def keep(source, network, params=None, kept_in="float32", **changes):
    graphdef, weights = network
    settings = {
        "settings": {"gelu": "tanh"},
        "frame_size": SIZE,
        "dtype": "float32",
        "visits": 100,
        "batch_size": 4,
        "progress": False,
    }
    return keep_features(
        source, graphdef, params or weights, make_mesh(), kept_in=kept_in, **settings | changes
    )


def folders(own):
    return sorted(path.name for path in Path(own).glob("encoder-*"))


@functools.partial(jax.jit, static_argnums=0)
def encoded(graphdef, params, frames):
    return nnx.merge(graphdef, params).network.encoder(normalised_frames(frames))


def direct(network, source, clip, second):
    frame = decode_frame(source[clip].frames[second], SIZE, where="")
    return [np.asarray(one[0]) for one in encoded(*network, np.stack([frame] * 4))]


def test_features_are_those_of_the_frames_and_batches_hold_them(own, network):
    source = ClipSource([(own, "train"), (own, "unlabelled")])
    assert feature_shapes(*network, SIZE) == SHAPES
    store = pickle.loads(pickle.dumps(keep(source, network)))
    assert store == keep(source, network)
    for clip, second in ((0, 0), (3, 0), (6, 9), (4, 2)):
        features, expected = store.read(clip, second), direct(network, source, clip, second)
        for one, two in zip(features, expected, strict=True):
            assert one.dtype == np.float32
            assert two.std() > 0.05
            np.testing.assert_allclose(one, two, atol=1e-5)
    for clip in (0, 7):  # with one annotated frame, and without any
        with pytest.raises(IndexError, match=f"frame 1 of the [01] annotated ones of clip {clip}"):
            store.read(clip, 1)
    with train_batches(
        source,
        ReadSpec(frame_size=SIZE, label_size=14),
        batch_size=4,
        seed=0,
        frames_per_clip=3,
        beside=Beside(features=store),
    ) as batches:
        for batch in itertools.islice(batches, 4):
            assert batch.frames.shape == (4, SIZE, SIZE, 3)
            assert not batch.frames.any()
            for slot, place in enumerate(zip(batch.clip, batch.second, strict=True)):
                for name, one in zip(BACKBONE, store.read(*place), strict=True):
                    np.testing.assert_array_equal(getattr(batch, name)[slot], one)
            assert [one.shape[1:] for one in batch.backbone()] == list(SHAPES)


def test_it_goes_on_within_a_clip(own, network, monkeypatch):
    monkeypatch.setattr(kept_features, "FRAMES_PER_SHARD", 3)
    source = ClipSource([(own, "train")])  # four frames of four clips, thirty of three
    calls, make = [], kept_features._make_encoder

    def counting(*arguments):
        encode = make(*arguments)

        def counted(frames):
            calls.append(len(frames))
            if len(calls) == 5:
                raise KeyboardInterrupt
            return encode(frames)

        return counted

    monkeypatch.setattr(kept_features, "_make_encoder", counting)
    with pytest.raises(KeyboardInterrupt):
        keep(source, network)
    (folder,) = folders(own)
    # Twelve frames of the second split are done, the last two of them the first of a clip.
    assert len(list((Path(own) / folder).glob("train_v2/*.array_record"))) == 4
    store = keep(source, network)
    assert len(calls) == 5 + 5  # the other eighteen frames
    for clip, second in ((3, 0), (5, 1), (5, 2), (6, 9)):
        last = direct(network, source, clip, second)[-1]
        np.testing.assert_allclose(store.read(clip, second)[-1], last, atol=1e-5)


def changed(params, path, change):
    copy = pickle.loads(pickle.dumps(params))
    block = copy["network"]["encoder"]["stages"][1]["blocks"][0]
    *inner, last = path.split("/")
    for name in inner:
        block = block[name]
    block[last] = change(block[last])
    return copy


def test_what_they_depend_on_lies_apart(own, network, monkeypatch):
    source, params = ClipSource([(own, "train_v1s")]), network[1]
    ours = keep(source, network).read(0, 0)
    assert len(folders(own)) == 1
    # Not the same for all channels, to which the norms are blind.
    added = changed(params, "mlp_adapter/up/bias", lambda x: x + np.arange(x.size) % 3)
    theirs = keep(source, network, added).read(0, 0)
    assert np.abs(theirs[1] - ours[1]).max() > 0.1
    half = keep(source, network, kept_in="float16").read(0, 0)
    brain = keep(source, network, kept_in="bfloat16", dtype="bfloat16").read(0, 0)
    for one, two, three in zip(ours, half, brain, strict=True):
        assert (two.dtype, three.dtype.name) == (np.float16, "bfloat16")
        np.testing.assert_allclose(one, two, atol=2e-3)
        np.testing.assert_allclose(one, three.astype(np.float32), atol=0.2)
    assert len(folders(own)) == 4
    # The rest by where they would be kept.
    monkeypatch.setattr(kept_features, "_make_encoder", lambda *_: lambda x: np.zeros((4, 1920)))
    # Of an adapter that adds nothing, the seed is no reason to compute all anew.
    keep(source, network, changed(params, "mlp_adapter/down/kernel", lambda x: x + 1))
    heads = {"mask_decoder": jax.tree.map(lambda x: x + 1, params["network"]["mask_decoder"])}
    keep(source, network, {**params, "network": params["network"] | heads})
    assert len(folders(own)) == 4
    keep(source, network, changed(added, "mlp_adapter/down/kernel", lambda x: x + 1))
    keep(source, network, settings={"gelu": "exact"})
    keep(source, network, frame_size=SIZE + 4)
    assert len(folders(own)) == 7


def test_room_is_told_and_needed(own, network, monkeypatch, caplog):
    source, usage = ClipSource([(own, "train")]), namedtuple("usage", "free")
    free = 34 * FRAME_BYTES - 1
    monkeypatch.setattr(kept_features.shutil, "disk_usage", lambda folder: usage(free))
    with pytest.raises(UserError, match=r"need 0\.0 GB more, .*kept_features=float16"):
        keep(source, network)
    assert not folders(own)
    free += 1
    with caplog.at_level(logging.INFO):
        keep(source, network, visits=33)
    assert "of 34 frames, 0.0 MB each" in caplog.text
    assert "34 to compute" in caplog.text
    assert "visits 33 frames only: computing the features of 34 costs more" in caplog.text
    free = 0  # nothing more is needed
    keep(source, network)


def test_bad_input_is_named(own, network):
    params = changed(network[1], "mlp_out/bias", lambda x: x + np.inf)
    with pytest.raises(UserError, match=r"frame 0 of train_v1s: .* does not fit float16\. Set"):
        keep(ClipSource([(own, "train_v1s")]), network, params, kept_in="float16")
    with pytest.raises(UserError, match=r"-clip0, frame 2: cannot be decoded"):
        keep(ClipSource([(own, "damaged_frame")]), network)
    config = get_config()
    check_kept_features(config)
    config.data.kept_features = "int8"
    with pytest.raises(UserError, match=r"kept_features='int8': expected one of float32, float16"):
        check_kept_features(config)
    config.data.kept_features, augment = "float32", config.data.augment
    augment.flip, augment.scale, augment.brightness, augment.contrast = 0.5, (0.8, 1.25), 0.2, 0.0
    with pytest.raises(
        UserError, match=r"augment: flip=0\.5, scale=\(0\.8, 1\.25\), brightness=0\.2, but config"
    ):
        check_kept_features(config)
    augment.flip, augment.scale, augment.brightness, augment.foreign_sound = 0.0, (1, 1), 0.0, 0.5
    check_kept_features(config)
