"""python -m ssp_jax.predict: what it writes, and what it says where it cannot."""

import json

import numpy as np
import pytest
from made_videos import beeps, grey, write_video
from PIL import Image

from ssp_jax.predict import __main__ as predict_command
from ssp_jax.predict.predictor import Predictor, Sounding
from ssp_jax.predict.reading import VideoReader
from ssp_jax.predict.writing import spans
from tests.commands import runner
from tfds_builders.classes import palette


@pytest.fixture
def command(monkeypatch, capsys):
    return runner("ssp_jax.predict", predict_command.main, monkeypatch, capsys)


def test_what_sounds_is_told_or_that_nothing_does(command, trained, tmp_path, monkeypatch):
    scores, nothing = Predictor.scores, "nothing in the pictures was found to sound"
    noise = np.random.default_rng(0).integers(0, 255, (2, 90, 120, 3), np.uint8)
    video = write_video(tmp_path / "video.mp4", noise, fps=1, sound=beeps(1.0, seconds=2))
    for index, said, unsaid in ((0, nothing, "bell: "), (1, "bell: 0-2 s", nothing)):

        def one_class(self, clip, texts, index=index):
            found = np.zeros_like(scores(self, clip, texts))
            found[:, index] = 1.0
            return found

        monkeypatch.setattr(Predictor, "scores", one_class)
        _, text, _ = command(video, f"--checkpoint={trained[0]}", f"--out={tmp_path / str(index)}")
        assert said in text
        assert unsaid not in text


def test_videos_are_marked_and_those_that_cannot_be_are_listed(command, trained, tmp_path):
    workdir, rng = trained[0], np.random.default_rng(0)
    noise = [rng.integers(0, 255, (90, 120, 3), np.uint8) for _ in range(12)]
    good = write_video(tmp_path / "good.mp4", noise, fps=4, sound=beeps(1.0, seconds=3))
    mute = write_video(tmp_path / "mute.mov", noise[:4], fps=4)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(good.read_bytes()[:500])
    prompts, out = tmp_path / "prompts.json", tmp_path / "marked"
    prompts.write_text(json.dumps({"good": ["a bell on a table", "bell"]}))
    status, text, error = command(
        broken, good, mute, f"--checkpoint={workdir}", f"--prompts={prompts}", f"--out={out}"
    )
    assert status == 1
    assert "Traceback" not in error
    assert f"error: {broken}: cannot be read as a video" in error
    assert error.rstrip().endswith(f"failed: 1 of 3 videos: {broken}")
    assert f"{mute}: has no sound track" in error
    assert "no texts for 2 of 3 clips" in error
    assert f"{good}: 3 s, see {out / 'good'}" in text
    assert sorted(path.name for path in out.iterdir()) == ["good", "mute"]  # no half of anything
    facts = json.loads((out / "good" / "sounding.json").read_text())
    assert facts["size"] == [120, 90]
    assert facts["texts"] == ["a bell on a table", "bell"]
    assert [(s["start"], s["end"]) for s in facts["seconds"]] == [(0, 1), (1, 2), (2, 3.0)]
    for second in facts["seconds"]:
        with Image.open(out / "good" / second["mask"]) as image:
            labels, mode, colours = np.asarray(image), image.mode, image.convert("RGB")
        assert (mode, labels.shape) == ("P", (90, 120))
        np.testing.assert_array_equal(np.asarray(colours), palette(13)[labels])
        indices = [index for index in np.unique(labels).tolist() if index]
        assert [entry["index"] for entry in second["sounding"]] == indices
        for entry in second["sounding"]:
            assert entry["class"] == facts["classes"][entry["index"]]
            rows, columns = np.nonzero(labels == entry["index"])
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert entry["box"] == box
            assert entry["share"] == pytest.approx((labels == entry["index"]).mean(), abs=1e-5)
            assert 0 < entry["confidence"] <= 1
    overlay = VideoReader(out / "good" / "overlay.mp4")
    assert (overlay.size, overlay.has_sound) == ((480, 360), True)
    assert len(list(overlay.pictures())) == 12
    # Nothing is overwritten.
    before = (out / "good" / "sounding.json").read_bytes()
    status, _, error = command(good, f"--checkpoint={workdir}", f"--out={out}")
    assert status == 1
    assert f"error: {out / 'good'}: exists already" in error
    assert (out / "good" / "sounding.json").read_bytes() == before


def test_mistakes_are_one_line(command, trained, tmp_path):
    workdir, video = trained[0], write_video(tmp_path / "a.mp4", [grey(9)] * 3)
    other = tmp_path / "b" / "a.mkv"
    for arguments, message in (
        ((video, other, f"--checkpoint={workdir}"), "several videos are called a"),
        ((video, f"--checkpoint={tmp_path}"), "no run (no config.json)"),
        ((video, f"--checkpoint={workdir}", "--config=configs/demo.py"), "leave --config out"),
        ((video, f"--checkpoint={workdir},{workdir}"), "no weight folder; expected one run's"),
        ((video, f"--checkpoint={workdir}", f"--prompts={video}"), "cannot be read as JSON"),
    ):
        status, text, error = command(*arguments, f"--out={tmp_path / 'out'}")
        assert (status, text) == (1, "")
        assert error.startswith("error: ")
        assert message in error
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "weights.json").write_text("{}")
    status, _, error = command(video, f"--checkpoint={weights}")
    assert status == 1
    assert "need --config=FILE.py" in error
    assert not (tmp_path / "out").exists()


def test_spans_join_seconds():
    def sounding(*names):
        return tuple(Sounding(1, name, 0.2, (0, 0, 1, 1), 0.5) for name in names)

    seconds = [sounding("bird"), sounding("bird", "bell"), (), sounding("bird")]
    assert spans(seconds) == {"bird": [(0, 2), (3, 4)], "bell": [(1, 2)]}
