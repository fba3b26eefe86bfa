"""The command, run in this process."""

import pytest

from ssp_jax.weights import __main__ as weights_command
from tests.commands import runner


@pytest.fixture
def command(monkeypatch, capsys):
    """See `runner`."""
    return runner("ssp_jax.weights", weights_command.main, monkeypatch, capsys)


@pytest.fixture
def refused(command, tmp_path):
    """Runs the command, expects one message, status 1 and nothing written; the message."""

    def listing():
        return sorted(str(path) for path in tmp_path.rglob("*"))

    def run(*arguments):
        before = listing()
        status, out, err = command(*arguments)
        assert status == 1
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("error:") == 1
        assert "Traceback" not in err
        assert listing() == before
        return err

    return run
