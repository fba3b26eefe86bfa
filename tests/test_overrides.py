"""Overrides of a config: what each key takes, and one line for every mistake."""

import copy

import pytest

from configs import demo
from ssp_jax.command_line import read_config
from ssp_jax.config_ranges import flat
from ssp_jax.errors import UserError
from ssp_jax.overrides import override, split_overrides
from ssp_jax.run_folder import check_config


@pytest.fixture
def config():
    return read_config("configs/demo.py:ssp")


def test_which_words_are_overrides():
    argv = ["x", "--config=a.py", "--config.seed=1", "--config.avs.steps", "5", "--dry_run"]
    more = ["--noconfig.report", "--config.save_masks", "--workdir", "w", "--", "--config.seed=2"]
    rest, overrides = split_overrides([*argv, *more])
    left = ["x", "--config=a.py", "--dry_run", "--workdir", "w", "--", "--config.seed=2"]
    assert rest == left
    assert overrides == [
        *("--config.seed=1", "--config.avs.steps=5"),
        *("--noconfig.report", "--config.save_masks"),
    ]


def test_values_of_every_type(config):
    changes = [
        *("--config.seed=3", "--config.avs.optim.lr=1", "--noconfig.report", "--config.save_masks"),
        *("--config.model.depths=[1,1,2,1]", "--config.avs.init_new=class_head"),
        *("--config.avs.init_new=('a', 'b')", "--config.init_from=a=b", "--config.avs.optim.b2=.9"),
    ]
    override(config, changes)
    assert (config.seed, config.avs.optim.lr, config.avs.optim.b2) == (3, 1.0, 0.9)
    assert isinstance(config.avs.optim.lr, float)
    assert (config.report, config.save_masks) == (False, True)
    assert config.model.depths == (1, 1, 2, 1)
    assert config.avs.init_new == ("a", "b")  # the last word counts
    assert config.init_from == "a=b"


def test_a_section_takes_the_keys_to_change(config):
    before = copy.deepcopy(config)
    override(config, ["--config.avs.prompt={'source':'none','premask':False}"])
    override(config, ["--config.avs={'steps':7,'optim':{'lr':1,'rates':[['x',0]]}}"])
    before.avs.prompt.source, before.avs.prompt.premask = "none", False
    before.avs.steps, before.avs.optim.lr, before.avs.optim.rates = 7, 1.0, (("x", 0),)
    assert flat(config.to_dict()) == flat(before.to_dict())


def test_a_table_of_data_sets_is_replaced_as_a_whole(config):
    override(config, ["--config.avs.test={'mine':'builtin:test_v2'}", "--config.avs.val={}"])
    assert config.avs.test.to_dict() == {"mine": "builtin:test_v2"}
    assert config.avs.val.to_dict() == {}
    override(config, ["--config.avs.test.mine=builtin:test_v1s"])
    assert config.avs.test.mine == "builtin:test_v1s"


@pytest.mark.parametrize("key", ["model.depths", "model.vta", "model.remat", "avs.decoder_adapter"])
def test_none_leads_back_to_a_default_of_none(config, key):
    section, name = key.split(".")
    values = {"depths": "(1,1,1,1)", "vta": "joint", "remat": "True", "decoder_adapter": "after"}
    override(config, [f"--config.{key}={values[name]}"])
    assert config[section][name] is not None
    override(config, [f"--config.{key}=None"])
    assert config[section][name] is None
    override(config, [f"--config.{section}={{{name!r}: None}}"])
    assert config[section][name] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("new_key=1", "no key 'new_key' in config; its keys are"),
        ("negative_sound=x", "the nearest: negative_sounds"),
        ("avs.optim.lrate=1", "no key 'lrate' in config.avs.optim; the nearest: avs.optim.rates"),
        ("lr=1", "the nearest: avs.optim.lr, avs.phase1.lr"),
        ("seed.x=1", "config.seed is no section"),
        (
            "avs.prompt={'sorce':'none'}",
            "no key 'sorce' in config.avs.prompt; the nearest: avs.pro",
        ),
        ("avs.prompt={'source':1}", "config.avs.prompt.source: expected a text"),
        (
            "avs.prompt={1:2}",
            "expected a dict of keys to change, as {'predicted': ...}, or one key",
        ),
        ("avs.prompt=none", "--config.avs.prompt.predicted=...; its keys are predicted, premask"),
        ("avs.test.s5=x", "no 's5' in config.avs.test: its names are ms3, s4"),
        ("avs.test={'s5':1}", "expected {'NAME': 'benchmark:split', ...}"),
        ("avs.steps=1.5", "expected a whole number; it is 300"),
        ("avs.steps", "no value; expected a whole number"),
        ("avs.steps=None", "expected a whole number; it is 300"),
        ("avs.optim.lr=fast", "expected a number; it is"),
        (f"avs.optim.lr={{'x':{10**400}}}", "expected a number"),
        (f"avs={{'optim':{{'lr':{10**400}}}}}", "config.avs.optim.lr: expected a number"),
        ("avs={'steps':True}", "config.avs.steps: expected a whole number"),
        ("report=maybe", "expected True or False"),
        ("init_from=None", "expected a text, '' for none"),
        ("avs.train=a,b", "expected a tuple"),
        ("avs.train={'a'}", "expected a tuple"),
        ("model.depths=1," + "(" * 5000, "expected a tuple, as ('a', 'b') or (1, 2) or None"),
    ],
)
def test_a_mistake_is_one_line(config, change, message):
    with pytest.raises(UserError) as error:
        override(config, [f"--config.{change}"])
    line = str(error.value)
    assert line.startswith(f"--config.{change}"[:200])
    assert message in line
    assert "\n" not in line
    assert len(line) < 1000


def test_no_is_for_truths(config):
    with pytest.raises(UserError, match="--no is for keys that are true or false"):
        override(config, ["--noconfig.seed"])


_VALUES = (
    *("", "x", "7", "-1.5", "nan", "True", "None", "('a','b')", "(1.0,1,1,1)", "((1,),)"),
    *("{'x': 1}", "{}", "9" * 5000),
)


def _refusal(config, change: str) -> str:
    try:
        override(config, [change])
        check_config(config)
    except UserError as error:
        return str(error)
    return ""


def test_no_key_and_value_end_in_a_traceback():
    whole = demo.get_config("ssp").lock()
    every = [*flat(whole.to_dict()), "avs", "avs.optim", "avs.val", "model", "data.augment", "flow"]
    keys = [key for key in every if not key.startswith(("objects.", "avss."))]  # as those of avs
    refused = 0
    for key in keys:
        config = copy.deepcopy(whole)
        for value in _VALUES:
            refusal = _refusal(config, f"--config.{key}={value}")
            assert not refusal or key.split(".")[-1] in refusal, (key, value)
            refused += bool(refusal)
    assert len(keys) * len(_VALUES) > refused > len(keys)
