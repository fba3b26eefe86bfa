"""A run that goes on on another machine says in what it differs."""

import logging

import pytest

from ssp_jax import run_machine
from ssp_jax.errors import UserError
from ssp_jax.run_folder import check_workdir
from ssp_jax.run_machine import MACHINE, keep_machine
from tests.tiny_run import get_config


def _told(config, workdir, caplog):
    caplog.clear()
    with caplog.at_level(logging.INFO, "ssp_jax.run_machine"):
        check_workdir(config, workdir)
        keep_machine(config, workdir)
    return [record.getMessage() for record in caplog.records]


def test_what_differs_from_the_last_start_is_told_once(tmp_path, monkeypatch, caplog):
    config = get_config("prepared")
    monkeypatch.setattr(run_machine, "device_kinds", lambda: "4 x cpu")
    config.mesh.fsdp = 2
    assert _told(config, tmp_path, caplog) == []
    assert _told(config, tmp_path, caplog) == []
    monkeypatch.setattr(run_machine, "device_kinds", lambda: "1 x cpu")
    config.mesh.fsdp, config.data.num_workers = 1, 2
    line = "goes on with data.num_workers 2, was 0; devices '1 x cpu', was '4 x cpu'; "
    assert _told(config, tmp_path, caplog) == [f"{line}mesh.fsdp 1, was 2"]
    assert _told(config, tmp_path, caplog) == []
    # What older code kept is the config alone.
    (tmp_path / MACHINE).unlink()
    expected = ["goes on with data.num_workers 2, was 0; mesh.fsdp 1, was 2"]
    assert _told(config, tmp_path, caplog) == expected
    (tmp_path / MACHINE).write_text("{")
    with pytest.raises(UserError, match=r"machine\.json: cannot be read.*Delete it"):
        keep_machine(config, tmp_path)
