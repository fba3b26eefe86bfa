"""Files of texts, from this project or from anywhere, and texts made worse."""

import json
import logging

import pytest

from ssp_jax.errors import UserError
from ssp_jax.prompts.texts import mirrored, read_text_file, read_texts, vary_texts, write_text_file

TEXTS = {f"clip{i}": (f"a dog{i} on the left; a cat{i} sits", f"dog{i}") for i in range(30)}
UIDS = tuple(TEXTS)


def write(path, content) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def refused(path, content) -> str:
    with pytest.raises(UserError) as error:
        read_text_file(write(path, content))
    assert str(path) in str(error.value)
    return str(error.value)


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "texts.json"
    odd = {"-x": ("Ein Hündchen “bellt”\n\t\\ \U0001f415", "")}
    write_text_file(path, TEXTS | odd, {"model": "m", "frames": 5})
    assert read_text_file(path) == (TEXTS | odd, {"model": "m", "frames": 5})
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(UserError, match="cannot be written"):
        write_text_file(tmp_path / "none" / "texts.json", TEXTS, {})


def test_bare_files_in_the_clips_order(tmp_path):
    content = {"b": ["two", "2"], "a": {"sounding": "1", "scene": "one"}}
    path = tmp_path / "texts.json"
    assert read_texts(write(path, content), ["a", "b"]) == (("one", "1"), ("two", "2"))
    path.write_text("\ufeff" + json.dumps(content), encoding="utf-8")
    assert read_texts(path, ["b"]) == (("two", "2"),)


def test_clips_without_texts_and_texts_without_clips(tmp_path, caplog):
    path = write(tmp_path / "texts.json", {"a": ["A", "1"], "far": ["B", "2"], "off": ["C", "3"]})
    with caplog.at_level(logging.WARNING):
        assert read_texts(path, ["x", "a", "y"]) == (("", ""), ("A", "1"), ("", ""))
    surplus, missing = caplog.messages
    assert "2 clips not read here: far, off" in surplus
    assert "no texts for 2 of 3 clips" in missing
    assert "x, y" in missing
    with pytest.raises(UserError, match=r"texts of 3 clips .* none of the 2 .*another data set"):
        read_texts(path, ["x", "y"])
    assert read_texts(path, []) == ()


def test_all_faults_in_one_message(tmp_path):
    bad = {
        "one": 3,
        "two": ["a"],
        "three": ["a", None],
        "four": {"scene": "a"},
        "five": {"scene": "a", "sounding": "b", "more": "c"},
        "six": {"scene": "a", "sounding": ["b"]},
        "seven": None,
        "fine": ["a", "b"],
    }
    message = refused(tmp_path / "texts.json", bad)
    for part in (
        "one: is of type int",
        "two: has 1 texts",
        "three: sounding is of type NoneType",
        "four: has the keys scene",
        "five: has the keys scene, sounding, more",
        "six: sounding is of type list",
        "seven: is of type NoneType",
    ):
        assert part in message
    assert "fine" not in message
    many = refused(tmp_path / "texts.json", {f"clip{i}": 0 for i in range(50)})
    assert "and 40 more" in many
    assert "clip30" not in many


def test_keys_twice(tmp_path):
    entry = '{"scene": "a", "sounding": "b"}'
    message = refused(tmp_path / "t.json", f'{{"x": {entry}, "y": {entry}, "x": {entry}}}')
    assert "'x' twice" in message
    message = refused(tmp_path / "t.json", '{"x": {"scene": "a", "scene": "b", "sounding": ""}}')
    assert "'scene' twice" in message


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("{", "JSON"),
        ("", "JSON"),
        ("[" * 100_000, "JSON"),
        ("[]", "expected an object"),
        ('{"format": 2, "texts": {}}', "format 2, expected 1"),
        ('{"format": 1}', "expected an object"),
        ('{"format": 1, "texts": []}', "expected an object"),
        (r'{"x": ["\ud83d", ""]}', "x: scene has half of a surrogate pair"),
    ],
)
def test_other_files(tmp_path, content, part):
    assert part in refused(tmp_path / "texts.json", content)


def test_no_file_and_no_text(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_text_file(tmp_path / "none.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(UserError, match="cannot be read"):
        read_text_file(tmp_path / "bytes.json")


def vary(how, seed=0, uids=UIDS, **options):
    return vary_texts([TEXTS[uid] for uid in uids], uids, how, seed, **options)


def test_clean_and_empty():
    assert vary("clean") == tuple(TEXTS.values())
    assert vary("empty") == (("", ""),) * len(TEXTS)


def test_shuffled_gives_every_text_to_another_clip():
    for seed in range(5):
        shuffled = vary("shuffled", seed)
        assert sorted(shuffled) == sorted(TEXTS.values())
        assert not any(a == b for a, b in zip(shuffled, TEXTS.values(), strict=True))
    assert vary("shuffled", 1) == vary("shuffled", 1) != vary("shuffled", 2)
    assert vary_texts([], [], "shuffled", 0) == ()
    with pytest.raises(UserError, match="one clip alone"):
        vary("shuffled", uids=UIDS[:1])


def test_noisy_changes_a_share_of_the_words():
    uids = tuple(f"u{i}" for i in range(300))
    texts = [(" ".join(f"{uid}w{k}" for k in range(20)), f"{uid}n") for uid in uids]
    own = dropped = foreign = 0
    for uid, (scene, sounding) in zip(uids, vary_texts(texts, uids, "noisy", 0, 0.4), strict=True):
        words = scene.split()
        own += sum(word.startswith(f"{uid}w") for word in words)
        foreign += sum(not word.startswith(f"{uid}w") for word in words)
        dropped += 20 - len(words)
        assert all("w" in word for word in words)  # of the same answer
        assert len(sounding.split()) <= 1
    assert own / 6000 == pytest.approx(0.6, abs=0.03)
    assert dropped / 6000 == pytest.approx(0.2, abs=0.03)
    assert foreign / 6000 == pytest.approx(0.2, abs=0.03)


def test_noise_is_of_the_seed_and_the_clip():
    assert vary("noisy", 3) == vary("noisy", 3) != vary("noisy", 4)
    assert vary("noisy", share=0.0) == vary("clean")
    same = vary_texts([("a b c d e f g h", "x")] * 2, ["one", "two"], "noisy", 0)
    assert same[0] != same[1]
    alone = vary("noisy", uids=UIDS[:1], share=1.0)
    assert alone == (("", ""),)  # no other clip has words
    assert vary_texts([("", ""), ("a", "b")], ["e", "f"], "noisy", 0, 1.0)[0] == ("", "")


def test_other_variations_are_refused():
    with pytest.raises(UserError, match="expected clean, empty, shuffled, noisy, got 'dirty'"):
        vary("dirty")
    with pytest.raises(UserError, match=r"words is 1\.5"):
        vary("noisy", share=1.5)


def test_texts_of_mirrored_clips():
    texts = [("On the left a bright bell moves to the right.", "bell"), ("Left; leftover", "")]
    expected = (
        ("On the right a bright bell moves to the left.", "bell"),
        ("Right; leftover", ""),
    )
    assert mirrored(texts) == expected
    assert mirrored(expected) == tuple(texts)
