"""A page is markup of ours alone, whatever names, texts and files hold."""

import copy
import json
import re
from html.parser import HTMLParser

import pytest
from ml_collections import ConfigDict

from configs import demo
from ssp_jax.report import __main__ as command
from ssp_jax.report.page import write_page
from tests.commands import runner

HOSTILE = "</style><script>alert(1)</script>\"'><img src=x onerror=alert(1)> $\\frac$ & <b>"


def record(name="avss", words="avss:test", generated=(), left_out=0):
    """Of three clips and three classes, every name of it hostile."""
    score = {"iou": 0.5, "fscore": None}
    clips = [
        {"clip": i, "count": 2, "uid": f"{i}{HOSTILE}", "subset": HOSTILE, "category": HOSTILE}
        | score
        | {"sounding": True}
        for i in range(3)
    ]
    names = ["background", HOSTILE, "dog"]
    classes = [{"name": n, "trained": 4, "count": 3, "iou": 0.4, "fscore": 0.3} for n in names]
    rows = [{"name": HOSTILE, "count": 1} | score]
    view = {"clip": 1, "uid": HOSTILE, "category": HOSTILE, "seconds": [0], "rank": "best"}
    view["strips"] = [{"title": HOSTILE, "picture": HOSTILE}]
    view["legend"] = [{"name": HOSTILE, "colour": HOSTILE}]
    view |= {"texts": [HOSTILE, ""], "texts_read": True, "sound": [HOSTILE, HOSTILE]}
    return {
        "format": 1,
        "name": name,
        "stage": "avss",
        "words": words,
        "generated": list(generated),
        "left_out": {"avss": left_out},
        "protocol": "official",
        "binary": False,
        "num_clips": 3,
        "num_frames": 6,
        "num_padded": 0,
        "scores": {"miou": 0.5123, "fscore": 0.6},
        "clips": clips,
        "classes": classes,
        "confusion": {"names": names, "pixels": [[4, 1, 0], [1, 3, 2], [0, 0, 1]]},
        "groups": [{"title": HOSTILE, "note": HOSTILE, "rows": rows}],
        "views": [view],
    }


@pytest.fixture
def folder(tmp_path):
    """(name, *records) -> a run's folder that holds them."""

    def make(name, *records):
        run = tmp_path / name
        (run / "avss/report").mkdir(parents=True)
        config = ConfigDict(demo.get_config())
        config.data_dir = HOSTILE
        (run / "config.json").write_text(config.to_json())
        lines = [{"step": 1, "loss": 3.0, f"loss/{HOSTILE}": 1.0}, {"step": 2, "loss": 2.0}]
        lines += [{"step": 2, f"val/{HOSTILE}/miou": 0.4}]
        text = "\n".join(map(json.dumps, lines)) + '\n{"step": 3, "lo'
        (run / "avss/metrics.jsonl").write_text(text)
        for one in records:
            (run / "avss/report" / f"{one['name']}.json").write_text(json.dumps(one))
        return run

    return make


class Elements(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes


def check(text):
    elements = Elements(text)
    assert not elements.tags & {
        "script",
        "iframe",
        "object",
        "embed",
        "link",
        "base",
        "form",
        "svg",
    }
    assert not [name for name, _ in elements.attributes if name.startswith("on")]
    sources = [value for name, value in elements.attributes if name == "src"]
    assert sources
    assert all(value.startswith("data:") for value in sources)
    assert all(v.startswith("#") for name, v in elements.attributes if name == "href")
    assert text.count("</style>") == 1
    assert "default-src 'none'" in [
        value.split(";")[0] for name, value in elements.attributes if name == "content"
    ]


def test_nothing_becomes_markup(folder, monkeypatch, capsys):
    run = folder("run", record())
    check(write_page(run).read_text())
    other = copy.deepcopy(record())
    other["clips"][1]["iou"] = 0.9
    other["protocol"] = HOSTILE
    run_command = runner("ssp_jax.report", command.main, monkeypatch, capsys)
    status, out, err = run_command(run, folder("other", other), "--clips=0")
    assert status == 0, err
    check((run / "comparison-other.html").read_text())
    assert out.strip() == str(run / "comparison-other.html")
    # Its data are nowhere: the page says so and has all else.
    monkeypatch.chdir(run)
    status, _, err = run_command(run, run.parent / "other")
    assert status == 0, err
    assert "its prepared data are not in" in (run / "comparison-other.html").read_text()


@pytest.mark.parametrize(
    ("changes", "figures", "apart"),
    [
        ({}, "50.1 / 54.5", False),
        ({"words": "builtin:test", "generated": ["builtin"]}, "85.4 / 93.3 72.3 / 84.6", True),
        ({"left_out": 3}, "85.4 / 93.3 72.3 / 84.6", True),
    ],
)
def test_published_figures_stand_beside_the_whole_benchmark_only(changes, figures, apart, folder):
    text = write_page(folder("run", record(**changes))).read_text()
    assert "51.2 / 60.0" in text
    assert "seed 0, float32 (matmul_precision default)" in text
    (row,) = re.findall(r"<tr><th>SSP(.*?)</tr>", text)
    assert " ".join(re.findall(r"<td>(.*?)</td>", row)).startswith(figures)
    assert ("not comparable with these" in text) == apart


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "damaged"), ('{"format": 2}', "format 2, expected 1"), ('{"format": 1}', "damaged")],
)
def test_damaged_records_give_one_line(folder, content, message, monkeypatch, capsys):
    run = folder("run", record())
    run_command = runner("ssp_jax.report", command.main, monkeypatch, capsys)
    (run / "avss/report/avss.json").write_text(content)
    status, _, err = run_command(run)
    assert status == 1
    assert message in err
    assert "Give the run's own command once more" in err
    broken = record()
    broken["classes"] = [3]
    (run / "avss/report/avss.json").write_text(json.dumps(broken))
    status, _, err = run_command(run)
    assert (status, err.count("\n")) == (1, 1)
    (run / "avss/report/avss.json").unlink()
    status, _, err = run_command(run)
    assert "nothing to report" in err
    status, _, err = run_command(run / "avss")
    assert "no run (no config.json)" in err
