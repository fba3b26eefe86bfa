"""The command, run in this process."""

import sys

import pytest

from ssp_jax.weights import __main__ as weights_command


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs the command: (*arguments) -> (exit status, standard output, standard error)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["python -m ssp_jax.weights", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            weights_command.main()
        out = capsys.readouterr()
        return stop.value.code or 0, out.out, out.err

    return run


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
