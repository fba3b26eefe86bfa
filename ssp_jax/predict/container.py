"""Opening and decoding files with PyAV, whatever state they are in."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import av

from ssp_jax.errors import UserError

# What FFmpeg raises, and Python's own files where a damaged one sends FFmpeg to an absurd place.
DAMAGE = (av.FFmpegError, OSError, ValueError)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[av.container.InputContainer]:
    """A media file, as a file: what is a playlist inside opens nothing else, here or elsewhere.

    Raises:
      UserError: not to be opened, no media file, or one that is broken at its beginning.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({reason(error)})") from error
    with file:
        try:
            container = av.open(file, options={"protocol_whitelist": "none"})
        except DAMAGE as error:
            raise UserError(
                f"{path}: cannot be read as a video ({reason(error)}); it is of another kind, "
                "broken or cut off"
            ) from error
        with container:
            yield container


def decoded(container: av.container.InputContainer, stream) -> Iterator[list | None]:
    """Yield what each packet of a stream decodes to; None for one that is damaged."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except DAMAGE:
            yield None  # the file ends in the middle of something
            return
        try:
            frames = packet.decode()
        except DAMAGE:
            frames = None
        yield frames


def reason(error: Exception) -> str:
    """Return what FFmpeg or the system says, without numbers and names."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
