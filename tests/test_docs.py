"""Every command and every piece of Python in the README and the docs."""

import importlib
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from ssp_jax.ablation_rows import TABLES
from ssp_jax.command_line import read_config
from ssp_jax.errors import UserError
from ssp_jax.run_folder import check_config, stage_names
from tfds_builders.avs_builtin.export import export
from tfds_builders.prepare import prepare

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# What stands for something of the reader's own; a command with another such word is not whole.
_PLACES = ("DIR", "VERSION", "MASKS", "WEIGHTS")
_TRAINING = ("ssp_jax.main", "ssp_jax.ablate")
# Commands that need what no test has, and what they name then.
_LACKING = {
    "ssp_jax.weights": r"(mask2former-swin|vggish|bert-base|REFERENCE|runs/s4/avs|s4\.pth|PyTorch)",
    "ssp_jax.prompts": r"(GPU|torch|accelerate)",
    "ssp_jax.report": r"runs/baseline",
    "ssp_jax.evaluate": r"(runs/demo|weights/aavs_s4|runs/avss/avs)",
    "ssp_jax.export": r"runs/demo",
    "ssp_jax.hub": r"(runs/demo: no run|published/demo: no such folder)",
    "ssp_jax.predict": r"(concert\.mp4|runs/demo)",
}


def _commands():
    """(page, words after `python -m`) of each command in blocks and in running text."""
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for found in re.findall(r"python -m ([^`\n]+)", text):
            words = shlex.split(found.split(" && ")[-1], comments=True)
            whole = not any("..." in word or word in ("pytest", "--help") for word in words)
            if whole and len(words) > 1:
                yield page.name, words


COMMANDS = list(_commands())


def _of(*modules):
    return [pytest.param(words, id=f"{page}: {' '.join(words)}") for page, words in COMMANDS
            if words[0] in modules]  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Folders in the layouts that the docs speak of."""
    folder = tmp_path_factory.mktemp("docs")
    export(folder / "all", "tiny", progress=False)
    s4 = folder / "all/Single-source/s4_data/gt_masks/test"
    return {
        "DIR": folder / "all",
        "VERSION": prepare("s4", folder / "all", folder / "prepared", progress=False),
        "MASKS": s4,
        "WEIGHTS": folder / "weights",
    }


def test_every_command_is_looked_at():
    tested = {*_TRAINING, *_LACKING, *_RUN}
    assert len(COMMANDS) > 20
    for _, words in COMMANDS:
        assert words[0] in tested or words[0].startswith("benchmarks."), words


@pytest.mark.parametrize("words", _of(*_TRAINING))
def test_trainings_have_configs_that_a_run_takes(words):
    flags = dict(word.removeprefix("--").split("=", 1) for word in words[1:])
    changes = [f"--{name}={value}" for name, value in flags.items() if name[:7] == "config."]
    others = flags.keys() - {change[2:].split("=")[0] for change in changes}
    assert others <= {"config", "workdir", "seeds", "tables", "coordinator"}
    config = read_config(flags["config"].replace("CONFIG.py", "configs/s4.py"), changes)
    check_config(config)
    assert stage_names(config)
    assert set(flags.get("tables", "method").split(",")) <= TABLES.keys()


_RUN = ("tfds_builders.prepare", "tfds_builders.avs_builtin.export", "ssp_jax.flow",
        "ssp_jax.score")  # fmt: skip


@pytest.mark.parametrize("words", _of(*_RUN))
def test_commands_on_data_run(words, places, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    here = {**places, "DIR": places["DIR"] / ("AVSS" if "--benchmark=avss" in words else "")}
    if words[0].endswith("export"):
        here["DIR"] = tmp_path / "new"
        words = [*words, "--config=tiny"]
    if words[0] == "ssp_jax.flow":
        here["DIR"] = places["VERSION"]
    words = [re.sub(r"=(\w+)$", lambda m: f"={here.get(m[1], m[1])}", word) for word in words]
    assert _call(words) in (None, 0) or words[0] == "ssp_jax.score"
    if words[0] == "ssp_jax.score":
        assert "mIoU       100.00" in capsys.readouterr().out


@pytest.mark.parametrize("words", _of(*_LACKING))
def test_commands_say_what_this_machine_lacks(words, places, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [word.replace("CONFIG.py", "configs/s4.py") for word in words]
    try:
        assert _call(words) == 1
        said = capsys.readouterr().err
    except UserError as error:
        said = str(error)
    assert re.search(_LACKING[words[0]], said)
    assert not list(tmp_path.iterdir())


def _call(words):
    name = words[0]
    if importlib.util.find_spec(name).submodule_search_locations:
        name += ".__main__"
    module = importlib.import_module(name)
    return (module.run if hasattr(module, "run") else module.main)(words[1:])


def test_python_runs():
    found = []
    for page in PAGES:
        for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
            names = {}
            exec(compile(block, str(page), "exec"), names)  # with what it asserts itself
            found.append((page.name, len(names) > 1))
    assert found.count(("extending.md", True)) == 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_lead_somewhere(page):
    text = page.read_text()
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / link).exists(), link
    for module in re.findall(r"python -m ((?:benchmarks|ssp_jax|tfds_builders)[\w.]*)", text):
        assert importlib.util.find_spec(module.rstrip(".")), module
    for path in re.findall(
        r"`((?:ssp_jax|tfds_builders|tests|configs|benchmarks)/[\w/]+\.py)`", text
    ):
        assert (ROOT / path).exists(), path
