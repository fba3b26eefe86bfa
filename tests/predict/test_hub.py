"""A run handed on and taken up: by a folder, by a hub (its API replaced at the boundary)."""

import json
import shutil
import types

import jax
import numpy as np
import pytest
from huggingface_hub import ModelCard

from ssp_jax.config import OF_THE_MACHINE, base
from ssp_jax.config_ranges import flat
from ssp_jax.hub import __main__ as hub_command
from ssp_jax.hub import remote
from ssp_jax.init_from import read_weights
from ssp_jax.json_files import write_sealed
from ssp_jax.predict import Predictor
from ssp_jax.train_state import path_name
from tests.commands import runner


@pytest.fixture
def command(monkeypatch, capsys):
    return runner("ssp_jax.hub", hub_command.main, monkeypatch, capsys)


@pytest.fixture(scope="module")
def published(trained, tmp_path_factory):
    """The run with scores, as `push` writes it."""
    run, folder = tmp_path_factory.mktemp("scored") / "run", tmp_path_factory.mktemp("published")
    run.mkdir()
    for path in trained[0].iterdir():
        (run / path.name).symlink_to(path)
    scores = {"miou": 0.4321, "fscore": 0.5, "foreign_sounds": {"miou": 0.1}}
    (run / "results.json").write_text(json.dumps({"avss": scores}))
    hub_command.run(["push", str(run), f"--to={folder / 'net'}"])
    return folder / "net"


def assert_is_the_run(folder, trained):
    predictor = Predictor.from_run(folder)
    assert predictor.stage_name == "avss"
    for name, (stage, params) in predictor._stages.items():
        assert stage.spec == trained[1][name].spec
        jax.tree.map(np.testing.assert_array_equal, params, trained[2][name])


def test_a_run_is_pushed_and_pulled(command, trained, published, tmp_path):
    out = tmp_path / "pulled"
    status, text, _ = command("pull", published, f"--out={out}")
    assert (status, text.strip()) == (0, str(out))
    assert_is_the_run(out, trained)
    started = read_weights(out / "avs")  # as config.init_from does
    for path, leaf in jax.tree_util.tree_leaves_with_path(trained[2]["avs"]):
        np.testing.assert_array_equal(started[path_name(path)], leaf)
    for file in (published / "config.json", published / "README.md", out / "config.json"):
        assert str(trained[0].parent) not in file.read_text()  # prepared_dir was below it
    card = ModelCard.load(published / "README.md")
    assert card.data.license == "apache-2.0"
    assert [result.metric_value for result in card.data.eval_results] == [0.4321, 0.5]
    assert "| avss | `builtin_tiny:test` | 43.2 | 50.0 | 10.0 |" in card.text
    assert "ssp-jax 0.1.0" in card.text
    assert "computed in float32, products of float32 at matmul_precision default;" in card.text
    assert "stage `avss`" in card.text
    assert "--config.init_from=net/avss" in card.text
    # Nothing is overwritten.
    status, _, error = command("pull", published, f"--out={out}")
    assert (status, error.count("\n")) == (1, 1)
    assert f"error: {out}: exists already" in error


class FolderApi:
    """Of `HfApi` what is used, with a folder in the place of the hub."""

    def __init__(self, root):
        self.root, self.private = root, {}

    def __call__(self):
        return self

    def repo_exists(self, name):
        return (self.root / name).exists()

    def create_repo(self, name, *, private, exist_ok):
        (self.root / name).mkdir(parents=True, exist_ok=exist_ok)
        self.private[name] = private

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)

    def model_info(self, name, *, revision):
        if not self.repo_exists(name):
            raise RuntimeError("404 Client Error")
        return types.SimpleNamespace(sha=f"commit of {revision}")

    def list_repo_tree(self, name, *, recursive, revision):
        assert (recursive, revision) == (True, "commit of main")
        for path in (self.root / name).rglob("*"):
            size = {"size": path.stat().st_size} if path.is_file() else {}
            yield types.SimpleNamespace(path=path.relative_to(self.root / name).as_posix(), **size)

    def hf_hub_download(self, name, file, *, revision):
        assert revision == "commit of main"
        return str(self.root / name / file)


def test_the_hub_is_another_place(command, trained, tmp_path, monkeypatch):
    api = FolderApi(tmp_path / "hub")
    monkeypatch.setattr(remote, "HfApi", api)
    status, text, _ = command("push", trained[0], "--to=hf://user/net")
    assert (status, text.strip()) == (0, "hf://user/net")
    assert api.private == {"user/net": True}
    card = (tmp_path / "hub/user/net/README.md").read_text()
    assert "Not scored yet." in card
    assert "python -m ssp_jax.hub pull hf://user/net --out=net" in card
    status, _, error = command("push", trained[0], "--to=hf://user/net")
    assert status == 1
    assert "hf://user/net: exists already. Name another, or add --update" in error
    out = tmp_path / "pulled"
    command("pull", "hf://user/net@main", f"--out={out}")
    assert_is_the_run(out, trained)
    for source, message in (
        ("hf://user", "expected hf://user/name"),
        ("hf://user/other", "hf://user/other: 404 Client Error. Is the name right"),
    ):
        status, _, error = command("pull", source, f"--out={tmp_path / 'none'}")
        assert (status, error.count("\n")) == (1, 1)
        assert message in error


def _with(folder, target, **changes):
    """A copy of the run's or published folder with other keys in its config."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("prepared", "compiled"))
    config = json.loads((folder / "config.json").read_text())
    del config["sha256"]
    for section, values in changes.items():
        config[section] = {**config[section], **values} if isinstance(values, dict) else values
    write_sealed(target / "config.json", config)
    return target


def test_what_is_handed_on_says_nothing_of_the_machine(command, trained, tmp_path):
    machine = {
        "mesh": {"data": 2, "fsdp": 4},
        "data": {"num_workers": 7, "cache_mb": 12345},
        "log_every": 777,
        "profile": {"start": 77, "steps": 7},
        "trackers": "wandb",
        "save_every_minutes": 77.0,
        "data_dir": "/home/me/data",
        "prepared_dir": "/home/me/prepared",
    }
    run = _with(trained[0], tmp_path / "run", **machine)
    assert flat(machine).keys() == set(OF_THE_MACHINE)
    command("push", run, f"--to={tmp_path / 'net'}")
    published = flat(json.loads((tmp_path / "net/config.json").read_text()))
    defaults = flat(base().to_dict())
    assert {key: published[key] for key in OF_THE_MACHINE} == {
        key: defaults[key] for key in OF_THE_MACHINE
    }
    # Which it does of a run of older code, too.
    older = json.loads((run / "config.json").read_text())
    del older["profile"], older["matmul_precision"], older["sha256"]
    write_sealed(run / "config.json", older)
    command("push", run, f"--to={tmp_path / 'older'}")
    assert_is_the_run(tmp_path / "older", trained)
    # Older code pushed the mesh, too; there are not so many devices here.
    old = _with(tmp_path / "net", tmp_path / "old", mesh={"data": 2, "fsdp": 64})
    assert_is_the_run(old, trained)
    status, _, error = command("pull", old, f"--out={tmp_path / 'pulled'}")
    assert (status, error) == (0, "")
    assert json.loads((tmp_path / "pulled/config.json").read_text())["mesh"] == {
        "data": 0,
        "fsdp": 1,
    }
    assert_is_the_run(tmp_path / "pulled", trained)


def test_strangers_files_stay_data(command, published, tmp_path):
    bad = tmp_path / "bad"
    shutil.copytree(published, bad)
    (bad / "avs" / "weights.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    config = json.loads((bad / "config.json").read_text())
    config.pop("sha256")
    config["texts"]["tokeniser"] = config["avss"]["prompt"]["stage1"] = "/etc"
    config["flow"]["weights"] = config["data_dir"] = "../../secret"
    (bad / "config.json").write_text(json.dumps(config))
    out = tmp_path / "out"
    command("pull", bad, f"--out={out}")
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert found == {p.relative_to(published).as_posix() for p in published.rglob("*.*")}
    assert "/etc" not in (out / "config.json").read_text()
    assert "secret" not in (out / "config.json").read_text()

    def refused(message, *flags):
        status, _, error = command("pull", bad, f"--out={tmp_path / 'none'}", *flags)
        assert (status, error.count("\n")) == (1, 1), error
        assert message in error
        assert not (tmp_path / "none").exists()

    refused("more than the 0.0 GB of --max_gb", "--max_gb=0.0001")
    config["model"]["hidden"] = 31
    (bad / "config.json").write_text(json.dumps(config))
    refused("bad: config")
    shutil.copyfile(published / "config.json", bad / "config.json")
    weights = (bad / "avs" / "weights.safetensors").read_bytes()
    (bad / "avs" / "weights.safetensors").write_bytes(weights[:-5])
    refused("avs/weights.safetensors: cannot be read as safetensors")
    (bad / "facts.json").unlink()
    refused("no published run: facts.json not there")
    (bad / "facts.json").symlink_to(published / "facts.json")
    refused("facts.json: leads out of the folder")


def test_who_used_the_data_of_others_names_a_licence(command, published, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(published, run)
    config = json.loads((run / "config.json").read_text())
    config.pop("sha256")
    config["init_from"] = "/home/me/weights/mask2former,/home/me/weights/vggish"
    (run / "config.json").write_text(json.dumps(config))
    status, _, error = command("push", run, f"--to={tmp_path / 'out'}")
    assert (status, error.count("\n")) == (1, 1)
    assert "--licence is missing: this network comes from /home/me/weights/mask2former" in error
    command("push", run, f"--to={tmp_path / 'out'}", "--licence=cc-by-nc-4.0")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "cc-by-nc-4.0"
    assert "from mask2former,vggish" not in card.text  # a stage's own init_from goes before
    assert "/home/me" not in card.content + (tmp_path / "out" / "config.json").read_text()
