"""The ablation's rows, its resuming, and its tables; trainings are stood in for."""

import json

import numpy as np
import pytest

from configs import demo, s4
from ssp_jax import ablate as command
from ssp_jax.ablation_rows import FULL, TABLES, check_full, possible, row_config
from ssp_jax.errors import UserError
from ssp_jax.run_folder import check_config, write_results


@pytest.fixture
def config():
    """The demo without its pretraining."""
    config = demo.get_config("ssp")
    config.stages = "avs,avss"
    return config


def rows():
    return [row for table in TABLES.values() for row in table]


def test_every_row_is_a_config_of_its_own(config):
    made = {row.title: row_config(config, row) for row in rows()}
    for changed in made.values():
        check_config(changed)
    as_text = {title: changed.to_json() for title, changed in made.items()}
    assert as_text[FULL.title] == config.to_json()
    # The demo's stages are prompted by what is heard anyway.
    same = {title for title, text in as_text.items() if text == as_text[FULL.title]}
    assert same == {FULL.title, "full, reference heard"}
    assert len(set(as_text.values())) == len(made) - 1
    assert len({row.folder for row in rows()}) == len(made)
    baseline = made["AAVS"]
    assert baseline.model.vta == "none"
    for name in ("avs", "avss"):
        assert not baseline[name].prompt.premask
        assert baseline[name].criterion.post_mask == "none"
    assert (baseline.avs.prompt.source, baseline.avss.prompt.source) == ("none", "stage1")
    assert [row.title for row in TABLES["method"]][-1] == FULL.title


def test_a_prompt_from_flow_goes_with_the_pre_mask(config):
    config.avs.prompt.source = "flow"
    row = TABLES["method"][0]
    assert row_config(config, row).avs.prompt.source == "none"
    assert config.avs.prompt.source == "flow"


def test_a_config_without_a_part_is_refused(config):
    config.model.vta = "none"
    config.avs.prompt.premask = config.avss.prompt.premask = False
    with pytest.raises(UserError, match=r"no pre-mask .*, VTA .*demo\.py:ssp has"):
        check_full(config)


def test_rows_that_a_config_cannot_have_are_left_out(config):
    assert all(possible(config, row) for row in rows())
    config.model.audio_visual_map = False
    binary = s4.get_config()
    impossible = [row.title for row in rows() if not possible(config, row)]
    assert impossible == ["full, reference heard"]
    impossible = [row.title for row in rows() if not possible(binary, row)]
    assert impossible == ["full, reference heard", "full, reference stage1"]
    assert "avss" not in row_config(binary, TABLES["method"][0])


class Runs:
    """Stands in for training and scoring: scores by the row's folder and the seed."""

    def __init__(self):
        self.trained, self.scored, self.fail = [], [], None

    def results(self, folder, config, gain=0.0):
        value = 0.4 + 0.01 * config.seed + 0.001 * len(folder.parent.name) + gain
        return {
            name: {"miou": value, "fscore": value + 0.1, "nothing": {"miou": 0.0}}
            for name in ("s4", "ms3", "avss")
        }

    def run(self, config, folder, *, brief):
        assert brief
        if self.fail == len(self.trained):
            raise UserError("stopped")
        self.trained.append(f"{folder.parent.name}/{folder.name}")
        command.check_workdir(config, folder)
        results = self.results(folder, config)
        write_results(folder / "results.json", results)
        return results

    def rescore(self, config, folder):
        assert f"{folder.parent.name}/{folder.name}" in self.trained
        self.scored.append(folder.parent.name)
        return self.results(folder, config, gain=-0.1)


@pytest.fixture
def runs(monkeypatch):
    runs = Runs()
    monkeypatch.setattr(command, "run", runs.run)
    monkeypatch.setattr(command, "rescore", runs.rescore)
    return runs


def test_trains_every_row_once_and_goes_on_where_it_stopped(config, runs, tmp_path):
    runs.fail = 4
    with pytest.raises(UserError, match="stopped"):
        command.ablate(config, tmp_path, tables=("method", "texts"), seeds=2)
    assert len(runs.trained) == 4
    assert "## method (1 seed)" in (tmp_path / "ablation.md").read_text()
    runs.fail = 8
    with pytest.raises(UserError, match="stopped"):
        command.ablate(config, tmp_path, tables=("method", "texts"), seeds=2)
    assert "## method (1 to 2 seeds)" in (tmp_path / "ablation.md").read_text()
    runs.fail = None
    summary = command.ablate(config, tmp_path, tables=("method", "texts"), seeds=2)
    assert len(runs.trained) == len(set(runs.trained)) == 14
    assert runs.scored == [FULL.folder] * 6
    alone = json.loads((tmp_path / "full-scored-with-noisy-texts/seed1/config.json").read_text())
    assert alone["texts"]["vary"] == "noisy"
    again = command.ablate(config, tmp_path, tables=("method", "texts"), seeds=2)
    assert len(runs.trained) == 14
    assert again == summary == json.loads((tmp_path / "ablation.json").read_text())
    values = summary["method"]["AAVS"]["s4"]["miou"]
    np.testing.assert_allclose(np.diff(values), 0.01)
    text = (tmp_path / "ablation.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| AAVS"))
    assert f"{100 * np.mean(values):.1f} ± 0.7 / {100 * np.mean(values) + 10:.1f}" in line
    assert "83.2" in line
    assert "full, scored with empty texts" in text
    assert (tmp_path / "method.png").exists()
    # Another config in the same folder is refused, not mixed in.
    config.avs.steps += 1
    with pytest.raises(UserError, match=r"avs\.steps"):
        command.ablate(config, tmp_path, tables=("method",), seeds=1)


def test_tables_of_an_earlier_call_are_kept(config, runs, tmp_path):
    method = command.ablate(config, tmp_path, tables=("method",), seeds=2)["method"]
    summary = command.ablate(config, tmp_path, tables=("texts",), seeds=1)
    assert list(summary) == ["method", "texts"]
    assert summary["method"] == method
    assert summary == json.loads((tmp_path / "ablation.json").read_text())
    text = (tmp_path / "ablation.md").read_text()
    assert "## method (2 seeds)" in text
    assert "## texts (1 seed)" in text
    assert "| AAVS" in text
    assert "83.2" in text
    again = command.ablate(config, tmp_path, tables=("method",), seeds=1)
    assert len(again["method"]["AAVS"]["s4"]["miou"]) == 1
    trained = len(runs.trained)
    (tmp_path / "ablation.json").write_text("{")
    with pytest.raises(UserError, match="rows that are done are kept"):
        command.ablate(config, tmp_path, tables=("method",), seeds=3)
    assert len(runs.trained) == trained


def test_rows_start_from_one_pretraining(config, runs, tmp_path):
    config.stages = "objects,avs,avss"
    command.ablate(config, tmp_path, tables=("method",), seeds=2)
    assert len(runs.trained) == 15
    assert runs.trained[0].endswith("/pretrained")
    pretrained = json.loads((tmp_path / "pretrained/config.json").read_text())
    assert pretrained["stages"] == "objects"
    assert "objects" in pretrained
    assert not {"avs", "avss"} & pretrained.keys()
    row = json.loads((tmp_path / FULL.folder / "seed1/config.json").read_text())
    assert row["stages"] == "avs,avss"
    objects = str(tmp_path / "pretrained" / "objects")
    assert [row[name]["init_from"] for name in ("avs", "avss")] == [objects, f"{objects},avs"]


def test_a_row_may_score_the_parameters_of_another_than_full(config, runs, tmp_path):
    command.ablate(config, tmp_path, tables=("reference",), seeds=1)
    assert runs.scored == ["full-trained-with-the-truth-alone"]


def test_rows_of_one_config_are_trained_and_scored_once(config, runs, tmp_path, caplog):
    for name in ("avs", "avss"):
        config[name].criterion.post_mask_weight = 10.0
        config[name].prompt.update({"truth": 1.0, "predicted": 0.0})
    tables = ("post_mask_weight", "reference", "inference")
    with caplog.at_level("INFO", logger="ssp_jax.ablate"):
        summary = command.ablate(config, tmp_path, tables=tables, seeds=2)
    assert f"row 8 of 14: {FULL.title}, seed 1" in caplog.text
    folders = [FULL.folder, "full-post-mask-weight-5", "full-post-mask-weight-20"]
    assert runs.trained == [f"{name}/seed{seed}" for seed in (0, 1) for name in folders]
    weights = summary["post_mask_weight"]
    assert weights["full, post-mask weight 10"] == weights[FULL.title]
    assert summary["reference"]["full, trained with the truth alone"] == weights[FULL.title]
    # That the reference is heard is the config's own; with the truth, that of both tables is one.
    assert runs.scored == [FULL.folder] * 2 * 4


def test_unknown_table(config, tmp_path):
    with pytest.raises(UserError, match="expected some of method"):
        command.ablate(config, tmp_path, tables=("methods",), seeds=1)
