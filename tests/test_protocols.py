"""The facts of the four repositories, and the messages of a wrong choice."""

import dataclasses

import pytest

from configs import s4
from ssp_jax.data.datasets import DataSets, read_spec, scored_word
from ssp_jax.errors import UserError
from ssp_jax.protocols import Protocol, get_protocol, protocol_names


def test_official_is_the_default():
    assert get_protocol() == get_protocol("official")
    assert protocol_names() == ("official", "stepping_stones", "avsegformer", "combo")


@pytest.mark.parametrize(
    ("field", "official", "stepping_stones", "avsegformer", "combo"),
    [
        # avsbench.md 5.5, row by row
        ("score_rule", "logit", "margin", "logit", "softmax"),
        ("videos_per_group", 1, 1, 2, 1),
        ("binary_score_size", 224, 224, 512, 224),
        ("semantic_score_size", 224, 224, 224, 224),
        ("binary_input_size", 224, 384, 512, 224),
        ("semantic_input_size", 224, 384, 224, 224),
        ("binary_targets", *["object_masks", "semantic_labels"], *["object_masks"] * 2),
        ("binary_target_resize", "nearest", "bilinear_above_zero", "nearest", "nearest"),
        ("semantic_targets", *["labels_rgb"] * 3, "labels_semantic"),
        ("count_padded_frames", True, False, True, False),
        ("nobg_drop", "last", "first", "last", "last"),
    ],
)
def test_facts(field, official, stepping_stones, avsegformer, combo):
    expected = (official, stepping_stones, avsegformer, combo)
    assert tuple(getattr(get_protocol(n), field) for n in protocol_names()) == expected


def test_a_fact_can_be_replaced_without_changing_the_table():
    assert get_protocol("official", videos_per_group=4).videos_per_group == 4
    assert get_protocol("official").videos_per_group == 1


def test_protocols_can_be_static_arguments():
    assert len({hash(get_protocol(name)) for name in protocol_names()}) == 4
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_protocol().videos_per_group = 2


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("offical", {}, "expected one of official, stepping_stones, avsegformer, combo"),
        ("official", {"video_per_group": 2}, "no field video_per_group.*videos_per_group"),
        ("official", {"name": "mine"}, "no field name"),
        ("official", {"videos_per_group": 0}, "whole number of 1 or more"),
        ("official", {"videos_per_group": 2.0}, "whole number of 1 or more"),
        ("official", {"videos_per_group": True}, "whole number of 1 or more"),
        ("official", {"count_padded_frames": "no"}, "expected True or False"),
        ("combo", {"nobg_drop": "middle"}, "expected one of first, last"),
        ("combo", {"score_rule": "argmax"}, "expected one of logit, margin, softmax"),
    ],
)
def test_wrong_choices_are_said_to_the_user(name, overrides, message):
    with pytest.raises(UserError, match=message):
        get_protocol(name, **overrides)


def test_every_fact_is_described():
    for field in dataclasses.fields(Protocol):
        assert field.name in Protocol.__doc__


def test_stepping_stones_scores_other_clips_of_other_masks():
    twin = get_protocol("stepping_stones")
    assert scored_word("s4:test", twin) == "avss:test_v1s"
    assert scored_word("s4:train+ms3:val", twin) == "avss:train_v1s+avss:val_v1m"
    assert scored_word("builtin:test_v1s", twin) == "builtin:test_v1s"
    assert scored_word("s4:test", get_protocol()) == "s4:test"


@pytest.mark.parametrize(
    ("name", "binary", "own_input", "scored", "rule"),
    [
        ("official", True, 224, 224, "nearest"),
        ("stepping_stones", True, 384, 224, "bilinear_above_zero"),
        ("stepping_stones", False, 384, 224, "nearest"),
        ("avsegformer", True, 512, 512, "nearest"),
        ("avsegformer", False, 224, 224, "nearest"),
    ],
)
def test_a_run_reads_at_the_sizes_of_its_protocol(name, binary, own_input, scored, rule):
    config, data = s4.get_config("paper"), DataSets({}, ("background", "x"), ())
    spec = read_spec(config, data, get_protocol(name), binary=binary)
    assert (spec.frame_size, spec.label_size, spec.label_rule) == (384, scored, rule)
    config.data.frame_size = 0
    spec = read_spec(config, data, get_protocol(name), binary=binary)
    assert spec.frame_size == own_input
