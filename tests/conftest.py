"""One compilation cache for the whole session: several tests run the same programs."""

import os
import tempfile

import pytest

# Before jax is imported; subprocesses of tests inherit it.
_CACHE = tempfile.TemporaryDirectory(prefix="ssp_jax_tests_")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _CACHE.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


@pytest.fixture(scope="module")
def quick_compile():
    """Programs of this module's tests compile in half the time, without most optimisations."""
    import jax

    name, variable = "jax_disable_most_optimizations", "JAX_DISABLE_MOST_OPTIMIZATIONS"
    before = jax.config.read(name)
    jax.config.update(name, True)
    os.environ[variable] = "1"  # for subprocesses
    yield
    jax.config.update(name, before)
    del os.environ[variable]
