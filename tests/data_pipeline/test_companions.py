"""Flow masks and texts of a run's clips, from its config."""

import json

import numpy as np
import pytest

from ssp_jax.data.companions import Companions
from ssp_jax.data.datasets import open_datasets
from ssp_jax.errors import UserError
from tests.tiny_run import get_config

TRAIN, VAL = "builtin_tiny:train_v1s", "builtin_tiny:val_v1s"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return str(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def config(prepared):
    return get_config(prepared)


def companions(config, words=(TRAIN, VAL)):
    data = open_datasets(config, words)
    return data, Companions(config, data, words)


def test_flow_masks_of_every_frame(config):
    data, beside = companions(config)
    masks = beside.flow_masks(VAL)
    source = data.source(VAL)
    for clip in range(len(source)):
        read = masks.read(clip)
        assert len(read) == source.table.num_frames[clip]
        assert set(np.unique(read)) <= {0, 255}
    moving = [masks.read(clip).mean() / 255 for clip in range(len(source))]
    assert 0 < np.mean(moving) < 0.6
    # Asked for again they are the same, and equal as keys; other settings are other masks.
    assert beside.flow_masks(VAL) == masks
    config.flow.threshold = "nonzero"
    other = companions(config)[1].flow_masks(VAL)
    assert other != masks
    assert other.read(0).mean() > masks.read(0).mean()


def test_texts_of_the_data_set_itself(config):
    data, beside = companions(config)
    tokens = beside.texts(TRAIN)
    source = data.source(TRAIN)
    assert tokens["text_ids"].shape == (2, len(source) + 1, config.texts.max_length)
    assert tokens["text_ids"].max() < beside.tokeniser.vocabulary_size
    lengths = tokens["text_mask"].sum(-1)
    assert lengths[0, -1] == 3
    assert (lengths[0, :-1] > 8).all()
    assert "left" in source[0].texts[0] or "right" in " ".join(c.texts[0] for c in source)
    assert (tokens["text_ids"][0] != tokens["text_ids"][1]).any()
    config.texts.vary = "empty"
    _, beside = companions(config)
    assert (beside.texts(TRAIN)["text_mask"].sum(-1) == 3).all()


def test_texts_of_a_file(config, tmp_path, caplog):
    data, beside = companions(config)
    uids = data.source(TRAIN).table.uid
    path = tmp_path / "texts.json"
    path.write_text(json.dumps({uid: ["a red bell", "bell"] for uid in uids[1:]}))
    config.texts.file, config.texts.tokeniser = str(path), beside.tokeniser.name
    with caplog.at_level("WARNING", logger="ssp_jax"):
        lengths = companions(config)[1].texts(TRAIN)["text_mask"].sum(-1)[0]
    assert lengths[0] == lengths[-1] == 3
    assert len(set(lengths[1:-1].tolist())) == 1
    assert f"1 of {len(uids)} clips have no texts" in caplog.text
    path.write_text(json.dumps({"nobody": ["a", "b"]}))
    with pytest.raises(UserError, match="of none of the"):
        companions(config)[1].texts(TRAIN)


def test_a_file_of_texts_needs_a_vocabulary(config, tmp_path):
    config.model.vta, config.texts.file = "joint", str(tmp_path / "texts.json")
    with pytest.raises(UserError, match=r"config\.texts\.tokeniser is empty"):
        companions(config)
