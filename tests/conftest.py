"""How programs compile in tests: kept for the whole session, as several tests run the same ones,
and without most optimisations, which takes half the time."""

import os
import tempfile

# Before jax is imported; subprocesses of tests inherit it.
_CACHE = tempfile.TemporaryDirectory(prefix="ssp_jax_tests_")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _CACHE.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
