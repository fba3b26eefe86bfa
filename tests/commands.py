"""Runs a command of the project in this process."""

import sys

import pytest


def runner(name: str, main, monkeypatch, capsys):
    """(*arguments) -> (exit status, standard output, standard error) of `python -m <name>`."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [f"python -m {name}", *map(str, arguments)])
        capsys.readouterr()  # what was logged before is not the command's
        with pytest.raises(SystemExit) as stop:
            main()
        out = capsys.readouterr()
        return stop.value.code or 0, out.out, out.err

    return run
