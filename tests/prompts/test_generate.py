"""Questions about every clip, answers kept in a file, whatever happens between."""

import json

import numpy as np
import pytest

from ssp_jax.data.sources import ClipSource
from ssp_jax.errors import UserError
from ssp_jax.prompts import generate
from ssp_jax.prompts.generate import TextMaker, choose_frames
from ssp_jax.prompts.texts import read_text_file, read_texts

WORDS = {"scene": "what?", "sounding": "what of {scene} sounds?"}


class FakeModel:
    """Tells what it sees; `faults`: clip number -> what happens instead."""

    def __init__(self, faults=()):
        self.faults, self.asked = dict(faults), []

    def __call__(self, frames, question):
        clip = frames[0].getpixel((0, 0))[0]
        self.asked.append((clip, question))
        fault = self.faults.get(clip, "")
        if isinstance(fault, BaseException):
            raise fault
        if question == "what?":
            return fault or f" clip {clip} at " + " ".join(str(seconds(frames)).split()) + "\n"
        return f"clip{clip}"


def seconds(frames):
    return [frame.getpixel((3, 3))[1] for frame in frames]


@pytest.fixture
def train(textless):
    return ClipSource([(textless, "train")])


def test_frames_are_even_and_whole(train):
    clip = train[2]
    assert seconds(choose_frames(clip, 5)) == [0, 2, 4, 7, 9]
    assert seconds(choose_frames(clip, 1)) == [0]
    assert seconds(choose_frames(clip, 10)) == seconds(choose_frames(clip, 99)) == list(range(10))
    (frame,) = choose_frames(clip, 1)
    assert frame.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(frame), np.full((30, 40, 3), (2, 0, 0)))


def test_both_questions_of_every_clip(train, tmp_path):
    path, model = tmp_path / "new" / "texts.json", FakeModel()
    maker = TextMaker(path, "fake", 3, WORDS)
    assert maker.run(train, model) == {}
    scene = "clip 7 at [0, 4, 9]"
    assert model.asked[14:16] == [(7, "what?"), (7, f"what of {scene} sounds?")]
    assert read_texts(path, ["-clip7"]) == ((scene, "clip7"),)
    texts, facts = read_text_file(path)
    assert texts == maker.texts
    assert list(texts) == [f"-clip{i}" for i in range(12)]
    assert facts == {"model": "fake", "frames": 3, "wordings": WORDS}


def test_interrupted_it_goes_on(train, tmp_path):
    path, first = tmp_path / "texts.json", FakeModel({5: KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        TextMaker(path, "fake", 3, WORDS).run(train, first)
    assert list(read_text_file(path)[0]) == [f"-clip{i}" for i in range(5)]
    second = FakeModel()
    TextMaker(path, "fake", 3, WORDS).run(train, second)
    assert [clip for clip, _ in second.asked] == [clip for clip in range(5, 12) for _ in "12"]
    assert len(read_text_file(path)[0]) == 12
    third = FakeModel()
    TextMaker(path, "fake", 3, WORDS).run(train, third)
    assert third.asked == []


def test_answers_are_stored_as_it_goes(train, tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "_SAVE_EVERY", 4)
    path, stored = tmp_path / "texts.json", {}

    def model(frames, question):
        clip = frames[0].getpixel((0, 0))[0]
        stored[clip] = len(read_text_file(path)[0]) if path.exists() else 0
        return "a"

    TextMaker(path, "fake", 3, WORDS).run(train, model)
    assert [stored[clip] for clip in range(12)] == [0] * 4 + [4] * 4 + [8] * 4
    assert list(tmp_path.iterdir()) == [path]


def test_other_splits_join_the_file(train, textless, tmp_path):
    path = tmp_path / "texts.json"
    TextMaker(path, "fake", 3, WORDS).run(train, FakeModel())
    TextMaker(path, "fake", 3, WORDS).run(ClipSource([(textless, "test")]), FakeModel())
    assert len(read_text_file(path)[0]) == 14


def test_a_file_made_otherwise(train, tmp_path):
    path = tmp_path / "texts.json"
    TextMaker(path, "fake", 3, WORDS).run(train, FakeModel())
    before = path.read_bytes()
    with pytest.raises(UserError) as error:
        TextMaker(path, "other", 4, WORDS | {"scene": "which?"})
    for part in (
        "model: 'fake' there, 'other' now",
        "frames: 3 there, 4 now",
        "'what?'",
        "'which?'",
    ):
        assert part in str(error.value)
    assert path.read_bytes() == before
    bare = tmp_path / "bare.json"
    bare.write_text(json.dumps({"-clip0": ["a", "b"]}))
    with pytest.raises(UserError, match="model: None there"):
        TextMaker(bare, "fake", 3, WORDS)
    bare.write_text("{")
    with pytest.raises(UserError, match="JSON"):
        TextMaker(bare, "fake", 3, WORDS)


def test_failing_clips_are_told_and_left_out(train, textless, tmp_path):
    path = tmp_path / "texts.json"
    faults = {3: RuntimeError("out of memory"), 8: " "}
    failed = TextMaker(path, "fake", 3, WORDS).run(train, FakeModel(faults))
    assert failed == {
        "-clip3": "RuntimeError: out of memory",
        "-clip8": "ValueError: the answer about the scene is empty",
    }
    assert read_text_file(path)[0].keys() == {f"-clip{i}" for i in range(12)} - failed.keys()
    again = FakeModel()
    assert TextMaker(path, "fake", 3, WORDS).run(train, again) == {}
    assert {clip for clip, _ in again.asked} == {3, 8}
    test = ClipSource([(textless, "test")])
    failed = TextMaker(tmp_path / "test.json", "fake", 10, WORDS).run(test, FakeModel())
    assert list(failed) == ["-clip13"]
    assert "clip -clip13, frame 1: cannot be decoded" in failed["-clip13"]


def test_it_gives_up_when_nothing_works(train, tmp_path):
    path = tmp_path / "texts.json"
    faults = {clip: RuntimeError(f"no {clip}") for clip in range(1, 12)}
    with pytest.raises(UserError, match=r"10 clips in a row failed, the last with Runtime.*no 10"):
        TextMaker(path, "fake", 3, WORDS).run(train, FakeModel(faults))
    assert list(read_text_file(path)[0]) == ["-clip0"]


def test_unusable_questions(tmp_path):
    path = tmp_path / "texts.json"
    for wordings in ({"scene": "what?"}, WORDS | {"scene": " "}, WORDS | {"more": "?"}):
        with pytest.raises(UserError, match="a question each for scene and sounding"):
            TextMaker(path, "fake", 3, wordings)
    with pytest.raises(UserError, match=r"has no '\{scene\}'"):
        TextMaker(path, "fake", 3, WORDS | {"sounding": "what sounds?"})
    with pytest.raises(UserError, match="frames: 0"):
        TextMaker(path, "fake", 0, WORDS)
    path.write_text("{}")
    with pytest.raises(UserError, match="folder cannot be made"):
        TextMaker(path / "texts.json", "fake", 3, WORDS)
