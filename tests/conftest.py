"""One compilation cache for the whole session: several tests run the same programs."""

import os
import tempfile

# Before jax is imported; subprocesses of tests inherit it.
_CACHE = tempfile.TemporaryDirectory(prefix="ssp_jax_tests_")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _CACHE.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
