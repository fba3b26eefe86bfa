"""Predictions are those of an evaluation; from a run's folder, and from imported weights."""

import io
import json

import jax
import numpy as np
import pytest
from made_videos import beeps
from ml_collections import ConfigDict
from PIL import Image

from configs import avss
from ssp_jax.errors import UserError
from ssp_jax.json_files import write_sealed
from ssp_jax.mask_prompts import prompt_by
from ssp_jax.predict import Predictor
from ssp_jax.predict.clips import cut
from ssp_jax.predict.predictor import enlarged
from ssp_jax.prompts.texts import NO_TEXTS
from ssp_jax.train_state import path_name
from ssp_jax.weights import vggish
from ssp_jax.weights.folder import load_weights, save_weights
from tests.weights.weight_files import assert_same_arrays, reference
from tfds_builders.avs_builtin.clip import clip

WORDS = "builtin_tiny:test_v2+builtin_tiny:test_v1m"


def native(subset):
    """The first test clip of a subset as it was before it was prepared, and its texts."""
    example = clip(0, "test", subset, 0)
    frames = [np.asarray(Image.open(io.BytesIO(frame))) for frame in example["frames"]]
    texts = tuple(example["texts"][key] for key in ("scene", "sounding"))
    return np.stack(frames), example["waveform"], texts


def test_predictions_are_those_of_an_evaluation(trained):
    _, stages, params = trained
    prompt_by(stages["avs"], params["avs"], stages["avss"], uses=())
    stage = stages["avss"]
    source = stage.data.source(WORDS)
    firsts = [source.table.subset.index(subset) for subset in ("v2", "v1m")]
    evaluated = {index: {} for index in firsts}
    with stage.batches(WORDS) as batches:
        for batch in batches:
            scores = np.asarray(stage.predict(params["avss"], stage.put(batch)))
            for slot in np.flatnonzero(np.isin(batch.clip, firsts)):
                evaluated[int(batch.clip[slot])][int(batch.second[slot])] = scores[slot]
    predictor = Predictor({name: (stages[name], params[name]) for name in ("avs", "avss")})
    for subset, index in zip(("v2", "v1m"), firsts, strict=True):
        frames, waveform, texts = native(subset)
        (whole,) = cut(frames, waveform)
        scores = predictor.scores(whole, texts)
        expected = np.stack([evaluated[index][second] for second in range(len(frames))])
        np.testing.assert_array_equal(scores.argmax(1), expected.argmax(1))
        np.testing.assert_allclose(scores, expected, atol=1e-6)
        # The same as floats, at the size of the frames, with what sounds.
        seconds = predictor(frames, waveform / np.float32(32768), 16_000, texts)
        for one, frame, score in zip(seconds, frames, scores, strict=True):
            assert one.labels.shape == frame.shape[:2]
            np.testing.assert_array_equal(one.labels, enlarged(score, frame.shape[:2]))
            present = [index for index in np.unique(one.labels) if index]
            assert [sounding.class_index for sounding in one.sounding] == present
    # Everything that is read makes a difference.
    for changed in (
        predictor.scores(whole, NO_TEXTS),
        predictor.scores(next(cut(frames, waveform[::-1])), texts),
        predictor.scores(next(cut(frames[::-1], waveform)), texts),
    ):
        assert np.abs(changed - expected).max() > 1e-5


def test_a_run_is_found_as_it_was_trained(trained):
    workdir, stages, params = trained
    predictor = Predictor.from_run(workdir)
    assert (predictor.stage_name, predictor.reads_texts) == ("avss", True)
    assert predictor.class_names == stages["avss"].class_names
    for name, (stage, found) in predictor._stages.items():
        assert stage.spec == stages[name].spec
        assert stage.reads()["premask"]
        jax.tree.map(np.testing.assert_array_equal, found, params[name])


def test_what_sounds_is_described():
    scores = np.full((3, 4, 4), 0.1, np.float32)
    scores[0] = 0.3
    scores[2, 1:3, 2:] = 0.8
    labels = enlarged(scores, (4, 4))
    np.testing.assert_array_equal(labels, scores.argmax(0))
    predictor = Predictor.__new__(Predictor)
    predictor.class_names = ("background", "bell", "bird")
    (one,) = predictor._named(scores, (4, 4)).sounding
    assert (one.class_index, one.name, one.share, one.box) == (2, "bird", 0.25, (2, 1, 4, 3))
    assert one.confidence == pytest.approx(0.8 / 1.2)
    large = predictor._named(scores, (40, 80))
    assert large.labels.shape == (40, 80)
    assert large.sounding[0].share == pytest.approx(0.25, abs=0.1)


def test_one_stage_alone_tells_where_it_sounds(trained, tmp_path):
    workdir, _, _ = trained
    (tmp_path / "avs").symlink_to(workdir / "avs")
    for name in ("config.json", "facts.json", "tokeniser"):
        (tmp_path / name).symlink_to(workdir / name)
    predictor = Predictor.from_run(tmp_path)
    assert predictor.class_names == ("background", "sounding")
    frames, _, _ = native("v1m")
    # More seconds than a clip has, another rate, and sound that ends early.
    many = np.concatenate([frames] * 3)[:13, :50, :70]
    with pytest.warns(UserWarning, match=r"13 frames, one a second, and 9\.0 s of sound"):
        seconds = predictor(many, beeps(0.5, 3.0, seconds=9.0).T, 44_100)
    assert [one.labels.shape for one in seconds] == [(50, 70)] * 13
    assert set(np.unique([one.labels for one in seconds])) <= {0, 1}
    silent = predictor(many[:2])
    assert len(silent) == 2
    with pytest.raises(UserError, match=r"frames: expected uint8 of shape \(T, H, W, 3\)"):
        predictor(frames.astype(np.float32))


def test_a_run_that_lacks_something_says_so(trained, tmp_path):
    workdir, _, _ = trained
    with pytest.raises(UserError, match=r"no run \(no config\.json\)"):
        Predictor.from_run(tmp_path)
    config = json.loads((workdir / "config.json").read_text())
    del config["sha256"]
    write_sealed(tmp_path / "config.json", config)
    with pytest.raises(UserError, match=r"no facts\.json.*run's own command once more"):
        Predictor.from_run(tmp_path)
    (tmp_path / "facts.json").symlink_to(workdir / "facts.json")
    (tmp_path / "tokeniser").symlink_to(workdir / "tokeniser")
    with pytest.raises(UserError, match="no trained stage avs or avss"):
        Predictor.from_run(tmp_path)
    (tmp_path / "avss").symlink_to(workdir / "avss")
    with pytest.raises(UserError, match="prompted with the masks of stage avs, which is not there"):
        Predictor.from_run(tmp_path)
    config["avss"]["prompt"]["stage1"] = str(workdir / "avs")
    write_sealed(tmp_path / "config.json", config)
    assert Predictor.from_run(tmp_path).stage_name == "avss"
    config["avss"]["prompt"]["source"] = "truth"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="prompted with the truth"):
        Predictor.from_run(tmp_path)
    del config["avss"]["prompt"]["premask"]
    config["avss"]["prompt"]["source"] = "heard"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"of another version of this project \(.*premask"):
        Predictor.from_run(tmp_path)


@pytest.fixture(scope="module")
def aavs(tmp_path_factory):
    """Weight folders of AAVS's golden stages and of VGGish, and the config of their model."""
    folder, config = tmp_path_factory.mktemp("aavs"), avss.get_config("aavs")
    for stage, name in ((1, "avs"), (2, "avss")):
        golden = reference(stage)
        params = {f"network/{path}": value for path, value in golden.params().items()}
        model = golden.arguments
        facts = {"source": "aavs", "stage": stage, "model": model}
        save_weights(folder / name, params, facts)
        config[name].num_queries = model["num_queries"]
    width, random = 1 / 32, np.random.default_rng(0)
    params = {
        f"network/{path}": random.normal(0, 0.05, shape).astype(np.float32)
        for path, shape in vggish.shapes(width).items()
    }
    save_weights(folder / "vggish", params, {"source": "vggish"})
    fixed = ("num_classes", "num_queries", "mask_prompt", "decoder_adapter", "premask")
    config.model.update({k: v for k, v in model.items() if k in config.model and k not in fixed})
    config.model.audio_width = width
    config.data.frame_size = 64
    return folder, config


def test_weights_of_aavs(aavs):
    folder, config = aavs
    folders = [folder / name for name in ("avs", "avss", "vggish")]
    before = ConfigDict(config)
    predictor = Predictor.from_weights(config, folders)
    assert predictor.class_names[70] == "woman"
    assert config == before
    # Each stage has its own of two weights of one name, and both have VGGish's.
    vggish_params = load_weights(folder / "vggish")
    for name, folder_of in (("avs", folders[0]), ("avss", folders[1])):
        found = jax.tree_util.tree_leaves_with_path(predictor._stages[name][1])
        found = {path_name(path): np.asarray(leaf) for path, leaf in found}
        assert_same_arrays(found, load_weights(folder_of) | vggish_params)
    with pytest.raises(UserError, match=r"18 of the model's \d+ parameters are not there"):
        Predictor.from_weights(config, folders[:2])
    with pytest.raises(UserError, match="prompted with the masks of stage avs"):
        Predictor.from_weights(config, folders[1:])
    with pytest.raises(UserError, match="no weights of AAVS"):
        Predictor.from_weights(config, folders[2:])
