"""The table machinery, on tables of its own."""

import numpy as np
import pytest

from ssp_jax.errors import UserError
from ssp_jax.weights import rules
from ssp_jax.weights.rules import Rule, Share, to_params, to_source

TABLE = (
    *rules.affine("layers.{0}.fc", "blocks/{0}/dense"),
    *(
        Rule(f"{name}.weight", "qkv", rules.LINEAR, target_share=Share(i, 3, -1))
        for i, name in enumerate("qkv")
    ),
    *(
        Rule("stacked", f"part/{name}", rules.LINEAR, source_share=Share(i, 2))
        for i, name in enumerate("ab")
    ),
)
RANDOM = np.random.default_rng(0)


def source():
    shapes = {"layers.0.fc.weight": (5, 3), "layers.0.fc.bias": (5,), "stacked": (4, 7)}
    shapes |= {f"{name}.weight": (2, 6) for name in "qkv"}
    return {k: RANDOM.normal(size=v).astype(np.float32) for k, v in shapes.items()}


WANTED = {
    "blocks/0/dense/kernel": (3, 5),
    "blocks/0/dense/bias": (5,),
    "qkv": (6, 6),
    "part/a": (7, 2),
    "part/b": (7, 2),
}


def convert(state, wanted=WANTED, **options):
    return to_params(state, TABLE, wanted, what="the test", hint="hint", **options)


def test_there_and_back():
    state = source()
    params = convert(state)
    np.testing.assert_array_equal(params["qkv"][:, 2:4], state["k.weight"].T)
    np.testing.assert_array_equal(params["part/b"], state["stacked"][2:].T)
    back = to_source(params, TABLE, what="the test")
    assert back.keys() == state.keys()
    for name, value in state.items():
        assert back[name].tobytes() == value.tobytes()


@pytest.mark.parametrize(
    ("transform", "shape"),
    [
        (rules.SAME, (3, 2)),
        (rules.LINEAR, (3, 2)),
        (rules.POINTWISE, (3, 2, 1, 1)),
        (rules.CONVOLUTION, (5, 4, 3, 2)),
        (rules.PATCHES, (8, 3, 4, 4)),
    ],
)
def test_transforms_are_invertible(transform, shape):
    value = RANDOM.normal(size=shape)
    np.testing.assert_array_equal(transform.backward(transform.forward(value)), value)


def test_all_mismatches_are_one_message():
    state = source()
    state["surplus"] = np.zeros(2, np.float32)
    state["layers.1.fc.bias"] = np.zeros(5, np.float32)
    state["layers.0.fc.bias"] = np.zeros(6, np.float32)
    state["q.weight"] = np.full((2, 6), np.nan, np.float32)
    state["stacked"] = np.zeros((4, 7), np.int32)
    del state["layers.0.fc.weight"]
    with pytest.raises(UserError) as error:
        convert(state)
    first, *lines = str(error.value).splitlines()
    assert first == "hint"
    assert sorted(line.strip() for line in lines) == [
        "blocks/0/dense/bias: has shape (6,), the model needs (5,)",
        "blocks/0/dense/kernel: no weights for it (layers.{0}.fc.weight)",
        "layers.1.fc.bias: the model has no blocks/1/dense/bias to hold it",
        "part/a: holds int32, expected floating-point numbers",
        "part/b: holds int32, expected floating-point numbers",
        "qkv: has values that are not finite",
        "surplus: not a name of the test",
    ]


def test_a_piece_that_is_missing():
    state = source()
    del state["k.weight"]
    with pytest.raises(UserError, match=r"qkv: no weights for it \(k.weight\)"):
        convert(state)
    params = convert(source())
    del params["part/b"]
    with pytest.raises(UserError, match="stacked: 1 of its 2 pieces"):
        to_source(params, TABLE, what="the test")
    params["foreign"] = np.zeros(2, np.float32)
    with pytest.raises(UserError, match="foreign: the test has no place for it"):
        to_source(params, TABLE, what="the test")


def test_accounted_names_need_no_place():
    convert(source() | {"index.7": np.zeros(3, np.int64)}, accounted=("index.{0}",))
    with pytest.raises(UserError, match=r"index\.x"):
        convert(source() | {"index.x": np.zeros(3)}, accounted=("index.{0}",))


def test_many_like_mismatches_are_summed_up():
    state = source() | {f"heads.{i}.weight": np.zeros(2, np.float32) for i in range(400)}
    with pytest.raises(UserError) as error:
        convert(state)
    assert len(str(error.value).splitlines()) == 12
    assert "390 more" in str(error.value)
