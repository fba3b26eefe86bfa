"""Folders and files as users name them: ~ is expanded, addresses are refused before anything."""

import argparse
import importlib
import re
import sys
import tomllib
from pathlib import Path

import pytest
from absl.testing import flagsaver

from configs import avss
from ssp_jax import ablate, main, places
from ssp_jax.command_line import config_and_workdir, parse_flags, read_config
from ssp_jax.config_ranges import flat
from ssp_jax.errors import UserError
from ssp_jax.files import absolute
from ssp_jax.places import run_path, run_words
from tfds_builders.places import expanded

ROOT = Path(__file__).parent.parent
SSP = "--config=configs/demo.py:ssp"
ADDRESSES = ("s3://b/x", "hdfs://h/x", "file:///x", "memory://x", "dbfs:/x", "gs:/b", "gs://b")
# Each command with every option that names a file or folder: `{}` where a local one is tried, `<>`
# where it may be on gs://.
OPTIONS = {
    "tfds_builders.prepare": (
        "--benchmark=s4 --source={}",
        "--benchmark=builtin_tiny --prepared_dir={}",
    ),
    "tfds_builders.avs_builtin.export": ("--config=tiny --out={}",),
    "ssp_jax.flow": ("--prepared={}", "--prepared=d --estimator=perceiver --weights={}"),
    "ssp_jax.prompts": (
        "--config=configs/demo.py:ssp --out=o --prepared={}",
        "--config=configs/demo.py:ssp --prepared=p --out={}",
        "--config=configs/demo.py:ssp --prepared=p --out=o --model={}",
        "--prepared=p --out=o --config={}",
    ),
    "ssp_jax.weights": (
        "import --source=bert --out=o --path={}",
        "import --source=bert --path=p --out={}",
        "export --to=aavs --out=o.pth --path=<>",
        "export --to=aavs --path=p --out={}",
        "verify {}",
    ),
    "ssp_jax.hub": ("push <> --to=t", "push r --to={}", "pull {} --out=o", "pull s --out={}"),
    "ssp_jax.evaluate": (
        "--weights=<>",
        "--weights=w,<>",
        "--weights=w --workdir=<>",
        "--weights=w --config={}",
    ),
    "ssp_jax.export": ("<> --out=o", "r --out={}"),
    "ssp_jax.report": ("<>", "r <>", "r s --out={}"),
    "ssp_jax.score": (
        "--benchmark=s4 --pred={} --truth=t",
        "--benchmark=s4 --pred=p --truth={}",
        "--benchmark=s4 --pred=p --truth=t --out={}",
    ),
    "ssp_jax.predict": (
        "{} --checkpoint=c",
        "v.mp4 --checkpoint=<>",
        "v.mp4 --checkpoint=a,<>",
        "v.mp4 --checkpoint=c --prompts={}",
        "v.mp4 --checkpoint=c --out={}",
    ),
}
CASES = [(name, words) for name, all_words in OPTIONS.items() for words in all_words]
KEYS = {
    "data_dir": "{}",
    "prepared_dir": "{}",
    "init_from": "w,<>",
    "avs.init_from": "objects,<>",
    "avss.prompt.stage1": "<>",
    "flow.weights": "{}",
    "clip.weights": "{}",
    "texts.file": "{}",
    "texts.tokeniser": "{}",
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home folder, while the working directory is another empty one."""
    for name in ("home", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


def _module(name):
    found = importlib.import_module(name)
    return importlib.import_module(f"{name}.__main__") if hasattr(found, "__path__") else found


def _called(name, words, capsys):
    """(exit status, what was said) of a command in this process."""
    try:
        status = (getattr(_module(name), "run", None) or _module(name).main)(words)
    except UserError as error:
        return 1, str(error)
    return status, capsys.readouterr().err


def _with(words, place):
    return words.replace("{}", str(place)).replace("<>", str(place))


def _nothing_at(folder):
    return not list(folder.iterdir())


@pytest.mark.parametrize(("name", "words"), CASES)
def test_an_address_is_refused_and_nothing_is_made(name, words, home, capsys):
    for address in (*ADDRESSES, *(["gs://b/x"] if "{}" in words else [])):
        status, said = _called(name, _with(words, address).split(), capsys)
        assert status == 1
        assert address in said
        assert len(said.strip().splitlines()) == 1
        assert "an address" in said or "no such file" in said
    assert _nothing_at(Path())
    assert _nothing_at(home)


def test_the_hub_keeps_its_own_addresses(home, capsys):
    assert (
        "hf://user: expected" in _called("ssp_jax.hub", ["pull", "hf://user", "--out=o"], capsys)[1]
    )


@pytest.mark.parametrize(("name", "words"), CASES)
def test_home_is_expanded(name, words, home, capsys, monkeypatch):
    if "--config={}" in words:  # is looked for at once
        (home / "x").write_text("def get_config():\n  raise ValueError('found')\n")
        assert "found" in _called(name, _with(words, "~/x").split(), capsys)[1]
        return
    parse, handed_on = argparse.ArgumentParser.parse_known_args, []

    def parse_and_stop(self, *arguments):
        handed_on.extend(vars(parse(self, *arguments)[0]).values())
        raise UserError("parsed")

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_and_stop)
    assert _called(name, _with(words, "~/x").split(), capsys)[1].strip().endswith("parsed")
    assert str(home / "x") in str(handed_on)
    assert "~" not in str(handed_on)


def test_every_command_is_looked_at():
    tables = {"ssp_jax.main", "ssp_jax.ablate"}  # below
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"].values()
    commands = {script.split(":")[0].removesuffix(".__main__") for script in scripts}
    assert commands <= OPTIONS.keys() | tables


@pytest.fixture
def started(monkeypatch, capsys):
    """(*flags) -> (exit status, what was said) of a command with a config, which never runs it."""

    def start(module, *words):
        monkeypatch.setattr(module, "start_processes", lambda: sys.exit("started"))
        monkeypatch.setattr(sys, "argv", ["", *words])  # where overrides of a config are looked for
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as stop:
            module.main(parse_flags(sys.argv))
        return stop.value.code, capsys.readouterr().err

    return start


@pytest.mark.parametrize("module", [main, ablate], ids=["main", "ablate"])
@pytest.mark.parametrize("flag", ["--workdir=<>", *(f"--config.{k}={v}" for k, v in KEYS.items())])
def test_a_run_refuses_addresses_before_anything(module, flag, home, started):
    for address in (*ADDRESSES, *(["gs://b/x"] if "{}" in flag else [])):
        for more in ([], ["--dry_run"]):
            more = more if module is main else []
            status, said = started(module, SSP, _with(flag, address), *more)
            assert status == 1, said
            assert _with(flag, address).removeprefix("--").split("=")[0] in said
            assert "an address" in said
            assert len(said.strip().splitlines()) == 1
    assert started(module, SSP, _with(flag, "./gs"))[0] == "started"
    assert _nothing_at(Path())


def test_all_addresses_of_a_config_are_told_at_once(home):
    with pytest.raises(UserError) as error:
        read_config(
            SSP.partition("=")[2], ["--config.data_dir=gs://b", "--config.texts.file=s3://b"]
        )
    assert [line.split("=")[0] for line in str(error.value).splitlines()] == [
        "config.data_dir",
        "config.texts.file",
    ]


def test_home_is_expanded_in_configs_and_workdirs(home, monkeypatch):
    words = {key: _with(value, "~/x") for key, value in KEYS.items()}
    changes = [f"--config.{key}={word}" for key, word in words.items()]
    monkeypatch.setattr(sys, "argv", ["", SSP, "--workdir=~/runs", *changes])
    with flagsaver.flagsaver():
        parse_flags(sys.argv)
        config, workdir = config_and_workdir()
    assert workdir == home / "runs"
    assert {key: flat(config.to_dict())[key] for key in words} == {
        key: _with(value, home / "x") for key, value in KEYS.items()
    }


def test_every_key_of_a_config_that_names_a_file_is_known():
    """Of a new one whoever adds it is reminded here."""
    suspicious = re.compile(r"(?!init_)\w*(dir|folder|file|path|weights|from|stage1|tokeniser)$")
    keys = {
        key for key in flat(avss.get_config().to_dict()) if suspicious.match(key.split(".")[-1])
    }
    stages = {key.replace("avs.", "avss.") for key in KEYS} | {"avs.prompt.stage1"}
    assert keys - {"data.sounds_from"} <= KEYS.keys() | stages


def test_what_is_no_address_stays_as_it_is():
    for word in ("runs/x", "./gs:/b", "a b", "", "x:y", "bert-base-uncased", "user/name", "/~x"):
        assert expanded(word) == word
    assert run_words("avs, runs/a ,w") == "avs, runs/a ,w"


def test_folders_of_runs_may_lie_on_gs(home, monkeypatch, capsys):
    monkeypatch.setattr(places, "_problem", lambda bucket: f"no bucket {bucket}")
    assert _called("ssp_jax.export", ["gs://b/x", "--out=o"], capsys) == (
        1,
        "gs://b/x: no bucket gs://b",
    )
    monkeypatch.setattr(places, "_problem", lambda bucket: "")
    path = run_path("gs://b/x/run")
    assert (str(path), path.name, run_path(path)) == ("gs://b/x/run", "run", path)
    assert str(absolute(path / "y")) == "gs://b/x/run/y"
    assert run_words("avs,gs://b/x , w") == "avs,gs://b/x , w"
    assert run_path(Path("a")) == Path("a")
    with pytest.raises(UserError, match="gs://BUCKET/FOLDER alone"):
        run_path(Path("gs://b/x"))  # pathlib has lost a slash


def test_without_its_package_gs_is_refused(monkeypatch):
    monkeypatch.setattr(places.importlib.util, "find_spec", lambda name: None)
    places._problem.cache_clear()
    with pytest.raises(UserError, match="pip install"):
        run_path("gs://b/x")
    places._problem.cache_clear()


def test_users_without_a_home_are_told():
    with pytest.raises(UserError, match="no user of this name"):
        expanded("~nobody-is-called-so/x")
