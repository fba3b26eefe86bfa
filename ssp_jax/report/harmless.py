"""A report that cannot be made costs a line in the log, never the results."""

import contextlib
import logging
from collections.abc import Iterator

from ssp_jax.errors import UserError

_LOG = logging.getLogger(__name__)


@contextlib.contextmanager
def harmless(what: str) -> Iterator[None]:
    """Within, any error is logged and ends the block; `what` it is the report of."""
    try:
        yield
    except (UserError, OSError) as error:
        _LOG.warning("%s: no report (%s)", what, error)
    except Exception:
        _LOG.warning("%s: no report; this is a fault of this project", what, exc_info=True)
