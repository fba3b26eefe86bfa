"""Of what other packages log, what reaches the terminal."""

import logging

from absl import logging as absl_logging

# Of JAX and its plugins for accelerators.
_JAX = ("jax", "jaxlib", "jax_plugins")
_HANDLER = "ssp_jax"


def hush_others() -> None:
    """Show JAX's warnings, which only the user can act on, and else nothing below an error.

    They say that an accelerator is left unused, and what JAX_LOG_COMPILES and
    JAX_EXPLAIN_CACHE_MISSES ask for. Orbax, TFDS and absl say dozens of things a minute that nobody
    asked for. What the user has set by JAX_LOGGING_LEVEL stays.
    """
    absl_logging.set_verbosity(absl_logging.ERROR)
    logging.getLogger("orbax").setLevel(logging.ERROR)
    handler = logging.StreamHandler()
    handler.set_name(_HANDLER)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(asctime)s jax: %(message)s", "%H:%M:%S"))
    for name in _JAX:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.WARNING)
        # An earlier call's may write to a terminal that is closed by now.
        others = [other for other in logger.handlers if other.name != _HANDLER]
        logger.handlers = others or [handler]
        logger.propagate = False  # the root shows errors alone, or the same again
