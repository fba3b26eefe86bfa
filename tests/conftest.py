"""How programs compile in tests: kept for the whole session, as several tests run the same ones,
and without most optimisations, which takes half the time."""

import logging
import os
import subprocess
import sys
import tempfile

import pytest

# Before jax is imported; subprocesses of tests inherit it.
_CACHE = tempfile.TemporaryDirectory(prefix="ssp_jax_tests_")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _CACHE.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Code by way of LLVM alone compiles in two thirds of the time. XLA ends a process at a flag that it
# does not know, as another version may not know this one.
_FLAG = "--xla_cpu_use_fusion_emitters=false"
if "XLA_FLAGS" not in os.environ:
    tried = subprocess.run(
        [sys.executable, "-c", "import jax; jax.devices('cpu')"],
        env=os.environ | {"XLA_FLAGS": _FLAG},
        capture_output=True,
        check=False,
    )
    os.environ["XLA_FLAGS"] = "" if tried.returncode else _FLAG


@pytest.fixture(autouse=True)
def _log_of_its_own():
    """What a command in this process has set up writes to a terminal that is another test's now."""
    yield
    for name in ("ssp_jax", "tfds_builders"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
