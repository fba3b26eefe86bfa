"""`python -m ssp_jax.score` against the project's evaluators, and its messages."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ssp_jax.data.datasets import scored_word
from ssp_jax.data.pipeline import eval_batches
from ssp_jax.data.reader import ReadSpec
from ssp_jax.data.sources import ClipSource
from ssp_jax.evaluators.saved_masks import palette_picture
from ssp_jax.evaluators.segmentation import SegmentationEvaluator
from ssp_jax.protocols import get_protocol
from ssp_jax.score import __main__ as command
from tests.commands import runner
from tfds_builders.avs_builtin.catalogue import CLASS_NAMES
from tfds_builders.avs_builtin.export import export
from tfds_builders.classes import palette
from tfds_builders.prepare import prepare


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    """The tiny built-in benchmark in AVSBench's layout."""
    folder = tmp_path_factory.mktemp("avsbench") / "all"
    export(folder, "tiny", progress=False)
    return folder


@pytest.fixture(scope="module")
def prepared(benchmark, tmp_path_factory):
    """benchmark -> version folder."""
    root, where = tmp_path_factory.mktemp("prepared"), {"avss": benchmark / "AVSS"}
    return {
        name: prepare(name, where.get(name, benchmark), root, progress=False)
        for name in ("s4", "ms3", "avss")
    }


@pytest.fixture
def score(monkeypatch, capsys):
    run = runner("ssp_jax.score", command.main, monkeypatch, capsys)
    return lambda **flags: run(*(f"--{name}={value}" for name, value in flags.items()))


def evaluated(prepared, name, protocol):
    """Batches of the clips that the protocol scores, and their uids."""
    binary = name != "avss"
    data, split = scored_word(f"{name}:test", protocol).split(":")
    source = ClipSource([(prepared[data], split)])
    spec = ReadSpec(
        frame_size=16,
        label_size=protocol.binary_score_size if binary else protocol.semantic_score_size,
        label_rule=protocol.binary_target_resize if binary else "nearest",
        binary=binary,
    )
    first = 1 if data != "avss" else 0
    return eval_batches(source, spec, batch_size=8), source.table.uid, first


def soft_mask(labels, rng, hard):
    """0..255: noise in large blocks, brighter where something sounds."""
    size = len(labels)
    noise = np.kron(rng.random((8, 8)), np.ones((size // 8, size // 8)))
    value = np.rint(255 * (0.4 * (labels > 0) + 0.6 * noise)).astype(np.uint8)
    return np.where(value > 127, 255, 0).astype(np.uint8) if hard else value


def class_map(labels, rng, num_classes):
    """The truth with blocks of other classes."""
    size, made = len(labels), labels.copy()
    for _ in range(3):
        top, left = rng.integers(0, size // 2, 2)
        made[top : top + size // 3, left : left + size // 3] = rng.integers(num_classes)
    return made


@pytest.mark.parametrize(
    ("name", "protocol", "hard"),
    [
        ("s4", "official", False),
        ("ms3", "official", False),
        ("ms3", "avsegformer", False),
        ("s4", "stepping_stones", True),
        ("ms3", "combo", True),
        ("avss", "official", True),
        ("avss", "stepping_stones", True),
    ],
)
def test_scores_are_those_of_the_evaluators(
    name, protocol, hard, prepared, benchmark, tmp_path, score
):
    protocol, rng = get_protocol(protocol), np.random.default_rng(0)
    num_classes = 2 if name != "avss" else len(CLASS_NAMES)
    evaluator = SegmentationEvaluator(protocol, name != "avss", num_classes)
    state = evaluator.empty()
    batches, uids, first = evaluated(prepared, name, protocol)
    with batches:
        for batch in batches:
            masks = np.zeros_like(batch.labels)
            for slot in np.flatnonzero(batch.valid):
                labels = batch.labels[slot]
                if name == "avss":
                    masks[slot] = class_map(labels, rng, num_classes)
                    picture = palette_picture(masks[slot])
                else:
                    masks[slot] = soft_mask(labels, rng, hard)
                    picture = Image.fromarray(masks[slot])
                folder = tmp_path / "pred" / "any" / uids[batch.clip[slot]]
                folder.mkdir(parents=True, exist_ok=True)
                picture.save(folder / f"{batch.second[slot] + first}.png")
            if name == "avss":
                state = state.merge(evaluator.score_labels(masks, batch))
            else:
                share = masks.astype(np.float32) / 255
                scores = jnp.asarray(np.stack([1 - share, share], axis=1))
                state = state.merge(evaluator.score(scores, batch, batch))
    expected = dict(evaluator.results(state))
    in_avss = name == "avss" or protocol.binary_targets == "semantic_labels"
    status, out, err = score(
        pred=tmp_path / "pred",
        truth=benchmark / "AVSS" if in_avss else benchmark,
        benchmark=name,
        protocol=protocol.name,
        out=tmp_path / "scores.json",
    )
    assert status == 0, err
    values = json.loads((tmp_path / "scores.json").read_text())
    for key, value in expected.items():
        assert values[key] == pytest.approx(value, abs=1e-6)
    assert 0.1 < expected["miou"] < 0.95
    assert f"mIoU       {100 * expected['miou']:6.2f}" in out
    assert f"F-score    {100 * expected['fscore']:6.2f}" in out


def truth_tree(folder, semantic=False):
    """Two clips of two frames, 32 x 48 pixels, flat; and their masks."""
    rng, masks = np.random.default_rng(1), {}
    folder.mkdir(parents=True)
    for key in ("a_b_1", "a_b_2", "c_1", "c_2"):
        mask = np.zeros((32, 48), np.uint8)
        top, left = rng.integers(0, 16, 2)
        mask[top : top + 12, left : left + 20] = 3 if semantic else 255
        masks[key] = mask
        Image.fromarray(mask).save(folder / f"{key}.png")
    return masks


def test_masks_of_0_and_1_and_of_other_sizes(tmp_path, score):
    masks = truth_tree(tmp_path / "truth")
    for name, change in {
        "same": lambda m: Image.fromarray(m),
        "of_0_and_1": lambda m: Image.fromarray(m // 255),
        "one_bit": lambda m: Image.fromarray(m).convert("1"),
        "scored_size": lambda m: Image.fromarray(m).resize((224, 224), Image.Resampling.NEAREST),
    }.items():
        (tmp_path / name).mkdir()
        for key, mask in masks.items():
            change(mask).save(tmp_path / name / f"{key}.png")
    found = {}
    for name in ("same", "of_0_and_1", "one_bit", "scored_size"):
        status, out, _ = score(
            pred=tmp_path / name, truth=tmp_path / "truth", benchmark="s4", out=tmp_path / "o.json"
        )
        assert status == 0
        found[name] = json.loads((tmp_path / "o.json").read_text())
        (tmp_path / "o.json").unlink()
        assert ("read as masks of 0 and 1" in out) == (name == "of_0_and_1")
        assert ("4 predictions of 48 x 32 pixels were resized" in out) == (name != "scored_size")
        assert found[name]["num_clips"] == 2
    assert found["scored_size"]["miou"] == pytest.approx(1, abs=1e-6)
    # Bilinear edges cost a little.
    for name in ("same", "of_0_and_1", "one_bit"):
        assert 0.93 < found[name]["miou"] < 1
        assert found[name]["miou"] == found["same"]["miou"]
        assert found[name]["fscore"] == found["same"]["fscore"]


def test_classes_come_as_indices_or_colours(tmp_path, score):
    masks = truth_tree(tmp_path / "truth", semantic=True)
    colours = palette(256)
    for name in ("index", "palette", "rgb", "sorted_palette"):
        (tmp_path / name).mkdir()
        for key, mask in masks.items():
            picture = Image.fromarray(mask)
            if name == "palette":
                picture = palette_picture(mask)
            elif name == "rgb":
                picture = Image.fromarray(colours[mask])
            elif name == "sorted_palette":  # as a program that saves space leaves it
                picture = Image.fromarray((mask == 0).astype(np.uint8))
                picture.putpalette([*colours[3], 0, 0, 0])
            picture.save(tmp_path / name / f"{key}.png")
        status, out, err = score(pred=tmp_path / name, truth=tmp_path / "truth", benchmark="avss")
        assert status == 0, err
        assert f"mIoU       {100 * 2 / 71:6.2f}" in out  # of 71 classes two occur
        assert "activated" in out


def test_everything_wrong_is_told_at_once(benchmark, tmp_path, score):
    truth = benchmark / "Multi-sources" / "ms3_data" / "gt_masks" / "test"
    paths = sorted(truth.rglob("*.png"))
    pred = tmp_path / "pred"
    clips = sorted({path.parent.name for path in paths})
    for path in paths:
        target = pred / path.name
        target.parent.mkdir(exist_ok=True)
        if path.parent.name != clips[0]:
            target.write_bytes(path.read_bytes())
    uid = clips[1]
    (pred / f"{uid}_1.png").unlink()
    (pred / f"{uid}_2.png").write_bytes(b"\x89PNG not at all")
    Image.new("L", (100, 30)).save(pred / f"{uid}_3.png")
    Image.fromarray(np.full((224, 224), 300, np.uint16)).save(pred / f"{uid}_4.png")
    Image.new("L", (5000, 5000)).save(pred / f"{uid}_5.png")
    (pred / "again" / uid).mkdir(parents=True)
    Image.new("L", (224, 224)).save(pred / "again" / uid / "5.png")
    Image.new("L", (224, 224)).save(pred / "stranger_1.png")
    out = tmp_path / "scores.json"
    status, printed, err = score(pred=pred, truth=benchmark, benchmark="ms3", out=out)
    assert (status, printed) == (1, "")
    assert not out.exists()
    for expected in (
        f"clip {clips[0]}: missing: none of its 5 predictions",
        f"clip {uid}: missing: prediction of frame 1",
        f"clip {uid}: prediction: unreadable picture",
        "100 x 30 pixels; expected the shape of its truth, 224 x 224, or a square",
        "a mask of mode I;16; expected a single channel of 8 bits",
        "5000 x 5000 pixels are too many",
        "second prediction of frame 5",
        "1 surplus files",
        "stranger_1.png",
    ):
        assert expected in err
    assert "Traceback" not in err
    listed = (tmp_path / "scores.json.problems.txt").read_text().splitlines()
    assert len(listed) == 1 + 7 + 1


def test_mistakes_give_one_line(benchmark, tmp_path, score):
    truth_tree(tmp_path / "pred")
    (tmp_path / "empty").mkdir()
    (tmp_path / "there.json").write_text("{}")
    flags = {"pred": tmp_path / "pred", "truth": benchmark, "benchmark": "s4"}
    for changed, message in (
        ({"truth": tmp_path / "nowhere"}, "no such folder"),
        ({"truth": tmp_path / "empty"}, "nor a single PNG file"),
        ({"pred": tmp_path / "nowhere"}, "no such folder"),
        ({"split": "tets"}, "--split=tets"),
        ({"out": tmp_path / "there.json"}, "there already"),
        ({"protocol": "stepping_stones", "truth": benchmark / "Single-source"}, "benchmark s4"),
    ):
        status, _, err = score(**flags | changed)
        assert status == 1
        assert message in err
    truth_tree(tmp_path / "twice")
    Image.new("L", (48, 32)).save(tmp_path / "twice" / "c_01.png")
    status, _, err = score(**flags | {"truth": tmp_path / "twice"})
    assert status == 1
    assert "c_01.png and c_1.png are both frame 1 of one clip" in err
    # Unknown classes and colours are no classes.
    masks = truth_tree(tmp_path / "truth", semantic=True)
    for key, mask in masks.items():
        Image.fromarray(mask + 70).save(tmp_path / "pred" / f"{key}.png")
    Image.new("RGB", (48, 32), (1, 2, 3)).save(tmp_path / "pred" / "c_2.png")
    status, _, err = score(**flags | {"truth": tmp_path / "truth", "benchmark": "avss"})
    assert status == 1
    assert "class index 73; expected 0..70" in err
    assert "unknown colour (1, 2, 3)" in err
