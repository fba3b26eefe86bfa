"""The wheel, installed, from a folder that has nothing of the project."""

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from tests.commands import runner

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """Folder of the wheel's commands, in an environment that has only it and what it needs."""
    folder = tmp_path_factory.mktemp("wheel")
    environment = folder / "venv"
    pip = [sys.executable, "-m", "pip", "-q"]
    build = ["wheel", str(ROOT), "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*pip, *build], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    (wheel,) = folder.glob("ssp_jax-*.whl")
    python = environment / "bin/python"
    install = ["--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([*pip, *install], check=True)
    # What the wheel needs lies where this test runs. A path in a .pth file reads no .pth file
    # there, so an editable installation of the project is not seen.
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "needs.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment / "bin"


def _run(command, folder):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_the_commands_work_from_an_empty_folder(commands, tmp_path):
    help_ = _run([commands / "ssp-jax", "--help"], tmp_path)
    assert "Train and score" in help_.stdout
    assert "--workdir" in help_.stdout
    # A config that lies in the wheel: it is read, and misses data.
    done = _run([commands / "ssp-jax", "--config=configs/s4.py"], tmp_path)
    assert done.returncode == 1
    assert "error: --config.data_dir is empty. s4 is part of AVSBench" in done.stderr
    done = _run([commands / "ssp-jax", "--config=configs/s5.py"], tmp_path)
    assert done.returncode == 1
    assert "no such file. The project's own are avss.py, demo.py, ms3.py, s4.py" in done.stderr
    assert not list(tmp_path.iterdir())
    done = _run([commands / "ssp-jax-prepare", "--benchmark=builtin_tiny"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "builtin: train_v1s 6" in done.stdout


def test_every_command_is_there(commands):
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for name, value in scripts.items():
        assert (commands / name).exists()
        assert callable(EntryPoint(name, value, "console_scripts").load())


@pytest.mark.parametrize(
    ("name", "value"),
    tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"].items(),
)
def test_help_shows_a_command_that_can_be_copied(name, value, monkeypatch, capsys):
    module = value.partition(":")[0].removesuffix(".__main__")
    main = EntryPoint(name, value, "console_scripts").load()
    if main.__name__ == "cli":  # absl's, which ends a process; --help is the module's docstring
        said = sys.modules[main.__module__].__doc__
    else:
        status, said, _ = runner(module, main, monkeypatch, capsys)("--help")
        assert status == 0
    # Beyond the usage: with values, not names of flags alone.
    examples = re.findall(rf"python -m {re.escape(module)} [^\n\[{{]*\w+[=/.]\w+", said)
    assert examples, said
