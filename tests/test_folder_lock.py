"""Two processes and one folder."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssp_jax.errors import UserError
from ssp_jax.folder_lock import Held, lock, sole_writer

ROOT = Path(__file__).parent.parent
_HOLDER = """
import sys, time
from pathlib import Path
from ssp_jax.folder_lock import sole_writer
with sole_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that writes into tmp_path/run."""
    command = [sys.executable, "-c", _HOLDER, str(tmp_path / "run")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_second_writer_is_told_who_is_there(tmp_path, holder):
    (tmp_path / "link").symlink_to(tmp_path / "run")
    for name in ("run", "link"):
        with pytest.raises(UserError) as stop, sole_writer(tmp_path / name):
            pytest.fail("two writers")
        message = str(stop.value)
        assert (
            f"{tmp_path / name}: process {holder.pid} on {socket.gethostname()} (since " in message
        )
        assert "use another --workdir" in message


def test_a_lock_of_a_dead_process_stands_in_nobodys_way(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with sole_writer(tmp_path / "run"), sole_writer(tmp_path / "run"):
        assert str(os.getpid()) in (tmp_path / "run/.lock").read_text()


def test_who_waits_is_told_and_goes_on(tmp_path, holder, caplog):
    path = tmp_path / "run/.lock"
    with pytest.raises(Held), lock(path, wait=False):
        pytest.fail("two writers")
    subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -9 {holder.pid}"])
    begin = time.monotonic()
    with lock(path):
        assert time.monotonic() - begin > 0.3
    assert f"process {holder.pid} on {socket.gethostname()}" in caplog.text
    assert "waiting for it" in caplog.text


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), sole_writer(tmp_path / "file/run"):
        pytest.fail("no folder")
