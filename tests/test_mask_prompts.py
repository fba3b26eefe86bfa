"""Stage 2 prompted by what stage 1 predicts, in one command and alone."""

import jax
import numpy as np
import pytest

from ssp_jax.data.datasets import open_datasets
from ssp_jax.errors import UserError
from ssp_jax.main import run
from ssp_jax.mask_prompts import Stage1Masks
from ssp_jax.stage import Stage
from tests.tiny_run import get_config


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


def binary_stage(prepared, folder):
    config = get_config(str(prepared))
    stage = Stage(config, "avs", open_datasets(config, config.avs.train), folder)
    return stage, stage.phases[0].states.new(jax.random.key(0)).params


def test_masks_are_what_the_stage_predicts_for_each_clip(prepared, tmp_path):
    stage, params = binary_stage(prepared, tmp_path)
    masks = Stage1Masks(stage, params, tmp_path / "masks", 32)
    words = "builtin_tiny:test"
    store = masks.store(words, "own")
    table = stage.data.source(words).table
    counts = [len(store.read(clip)) for clip in range(len(table))]
    assert counts == table.num_annotated.tolist()
    predict = stage.make_predict(32)
    with stage.batches(words) as batches:
        for batch in batches:
            silent, sounding = np.asarray(predict(params, stage.put(batch))).swapaxes(0, 1)
            for slot in np.flatnonzero(batch.valid):
                stored = store.read(int(batch.clip[slot]))[batch.second[slot]] / 255
                share = sounding[slot] / (sounding[slot] + silent[slot])
                np.testing.assert_allclose(stored, share, atol=0.5 / 255 + 1e-5)
    # Another model's masks, and those under other sounds, are kept apart.
    other = jax.tree.map(lambda x: x + 0.01, params)
    assert Stage1Masks(stage, other, tmp_path / "masks", 32).model_id != masks.model_id
    assert masks.store(words, "foreign").folder != store.folder
    assert masks.store(words, "own").folder == store.folder


def test_both_stages_in_one_command_then_the_second_alone(prepared, tmp_path):
    config = get_config(str(prepared))
    for name in ("avs", "avss"):
        config[name].steps = config[name].eval_every = 2
    config.avss.prompt.update({"source": "stage1", "truth": 0.5, "predicted": 0.4})
    config.data.augment.update({"silence": 0.2, "noise": 0.2, "foreign_sound": 0.2})
    alone = config.copy_and_resolve_references()
    alone.stages = "avss"
    with pytest.raises(UserError, match="no finished stage avs"):
        run(alone, tmp_path)
    results = run(config, tmp_path)
    made = {folder.name.rsplit("-", 1)[0] for folder in (prepared / "stage1_masks").iterdir()}
    assert made >= {f"builtin_tiny-{split}-own" for split in ("val", "test")}
    # Stage 1 hears what stage 2 hears, in training and in evaluation.
    for sounds in ("own", "silence", "noise", "foreign"):
        assert f"builtin_tiny-test-{sounds}" in made
        train = "+".join(config.avss.train).replace(":", "-")
        assert f"{train}-{sounds}" in made
    times = {path: path.stat().st_mtime_ns for path in prepared.glob("stage1_masks/*/0*")}
    assert run(alone, tmp_path) == {"avss": results["avss"]}
    alone.avss.prompt.stage1 = str(tmp_path / "avs")
    assert run(alone, tmp_path / "elsewhere") == {"avss": results["avss"]}
    # Predicted once: nothing was written again.
    again = {path: path.stat().st_mtime_ns for path in prepared.glob("stage1_masks/*/0*")}
    assert again == times
