"""Masks as other programs save and name them: taken with a word, or refused in words."""

import shutil

import numpy as np
import pytest
from PIL import Image

from ssp_jax.protocols import get_protocol
from ssp_jax.score import __main__ as command
from ssp_jax.score.frames import Frame, Truth, find_predictions, find_truth
from tests.commands import runner
from tfds_builders.classes import palette


@pytest.fixture
def score(monkeypatch, capsys):
    run = runner("ssp_jax.score", command.main, monkeypatch, capsys)
    return lambda **flags: run(*(f"--{name}={value}" for name, value in flags.items()))


def tree(folder, scale=255):
    """Two clips of two frames."""
    folder.mkdir(parents=True)
    mask = np.zeros((32, 32), np.uint8)
    mask[4:20, 8:28] = 1
    for key in ("a_1", "a_2", "b_1", "b_2"):
        Image.fromarray(mask * np.uint8(scale)).save(folder / f"{key}.png")
    return mask


def test_one_clip_of_0_and_1_is_named(tmp_path, score):
    mask = tree(tmp_path / "truth")
    tree(tmp_path / "pred")
    Image.fromarray(mask).save(tmp_path / "pred" / "b_2.png")
    status, _, err = score(pred=tmp_path / "pred", truth=tmp_path / "truth", benchmark="ms3")
    assert status == 1
    assert "a mask of 0 and 1, while 3 others are of 0 and 255; save all alike" in err
    assert "b_2.png" in err


def test_the_output_says_how_classes_were_read(tmp_path, score):
    tree(tmp_path / "truth", 64)
    tree(tmp_path / "pred", 64)
    for path in (tmp_path / "pred").iterdir():
        Image.open(path).convert("P").save(path)
    status, out, err = score(pred=tmp_path / "pred", truth=tmp_path / "truth", benchmark="avss")
    assert status == 0, err
    assert "4 predictions were read as class indices" in out
    assert f"mIoU       {100 * 2 / 71:6.2f}" in out


def test_classes_of_one_folder_are_read_alike(tmp_path, score):
    mask = tree(tmp_path / "truth", 64)
    tree(tmp_path / "pred", 64)
    Image.fromarray(palette(71)[mask * 64]).save(tmp_path / "pred" / "b_1.png")
    # An empty one says nothing of its kind.
    Image.new("RGB", (32, 32)).save(tmp_path / "pred" / "b_2.png")
    status, _, err = score(pred=tmp_path / "pred", truth=tmp_path / "truth", benchmark="avss")
    assert status == 1
    assert "a mask of colours, while 2 others are of class indices; save all alike" in err
    assert "b_1.png" in err
    assert "b_2.png" not in err


def test_folders_without_predictions_say_what_they_hold(tmp_path, score):
    tree(tmp_path / "truth")
    pred = tmp_path / "pred"
    pred.mkdir()
    flags = {"pred": pred, "truth": tmp_path / "truth", "benchmark": "s4"}
    assert "no PNG file; the folder holds no file" in score(**flags)[2]
    (pred / "a_1.jpg").write_bytes(b"x")
    assert "no PNG file; the folder holds 1 .jpg files (the first is a_1.jpg)" in score(**flags)[2]
    (pred / "other.png").write_bytes(b"x")
    err = score(**flags)[2]
    assert "no PNG file has the name of a scored frame" in err
    assert "such as a_1.png" in err


def test_what_a_mac_adds_is_left_out(tmp_path):
    tree(tmp_path / "truth")
    tree(tmp_path / "pred")
    shutil.copytree(tmp_path / "truth", tmp_path / "pred" / "__MACOSX")
    (tmp_path / "pred" / "._a_1.png").write_bytes(b"x")
    truth = find_truth(tmp_path / "truth", "s4", "test", get_protocol("official"))
    found, problems, surplus, shift = find_predictions(tmp_path / "pred", truth)
    assert (len(found), problems, surplus, shift) == (4, [], [], 0)


@pytest.mark.parametrize("lost", [False, True])
def test_numbers_from_0(tmp_path, lost):
    frames = {
        (uid, n): Frame(i, uid, n, tmp_path / "t")
        for i, uid in enumerate(("u", "v"))
        for n in range(1, 6)
    }
    truth = Truth("", False, (), frames, ())
    for uid in ("u", "v"):
        for n in range(5):
            Image.new("L", (4, 4)).save(tmp_path / f"{uid}_{n}.png")
    if lost:
        (tmp_path / "v_2.png").unlink()
    found, problems, _, shift = find_predictions(tmp_path, truth)
    if lost:
        assert shift == 0
        assert "numbered from 0, and the truth is numbered from 1" in problems[0].what
    else:
        assert (shift, problems) == (1, [])
        assert found[frames["u", 3]].name == "u_2.png"
