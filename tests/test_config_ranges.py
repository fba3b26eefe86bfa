"""Values of a config that no run can have are named, all at once."""

import pytest

from configs import avss, demo, ms3, s4
from ssp_jax.config import KINDS
from ssp_jax.config_ranges import check_ranges
from ssp_jax.errors import UserError


def test_all_configs_pass():
    for module in (s4, ms3, avss):
        for kind in KINDS:
            check_ranges(module.get_config(kind))
    check_ranges(demo.get_config("ssp"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("log_every", 0),
        ("seed", -1),
        ("avs.batch_size", 0),
        ("avs.optim.lr", float("nan")),
        ("avs.optim.lr", 0.0),
        ("avs.optim.b1", 1.0),
        ("avs.optim.weight_decay", -0.1),
        ("avs.listen.sounds", float("inf")),
        ("avs.phase1.rates", ("encoder", 0.0)),
        ("avs.phase1.rates", (("(", 0.0),)),
        ("avs.phase1.rates", (("encoder", float("nan")),)),
        ("avs.init_new", ("*",)),
        ("avs.optim.muon_on", "("),
        ("model.hidden", 2**31),
        ("model.bert_heads", 0),
        ("model.encoder_layers", 100_000),
        ("data.augment.scale", (float("nan"), 1.0)),
        ("data.max_bad_clips", -1),
    ],
)
def test_one_value(key, value):
    config = demo.get_config("ssp")
    *sections, last = key.split(".")
    section = config
    for name in sections:
        section = section[name]
    section[last] = value
    config.texts.noise = 7.0
    with pytest.raises(UserError) as error:
        check_ranges(config)
    lines = str(error.value).splitlines()
    assert len(lines) == 2
    assert any(line.startswith(f"config.{key}=") for line in lines)
    assert "config.texts.noise=7.0: expected 0 to 1" in lines
