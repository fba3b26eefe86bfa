"""Which of a file's tracks are read, as a player would choose them."""

from collections.abc import Sequence

import av

from ssp_jax.errors import UserError


def video_stream(container: av.container.InputContainer, where: object) -> av.VideoStream:
    """Return the track of pictures; covers of songs are none.

    Raises:
      UserError: no pictures, or of a format that cannot be decoded. `where`: the file, for this.
    """
    covers = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & covers]
    if not streams:
        found = "only sound" if container.streams.audio else "neither pictures nor sound"
        raise UserError(f"{where}: no video in it, {found}")
    stream = _best(container, "video", streams)
    if stream is None:
        raise UserError(f"{where}: its video is of a format that FFmpeg here cannot decode")
    return stream


def sound_stream(container: av.container.InputContainer) -> av.AudioStream | None:
    """Return the track of sound, None where there is none that can be decoded."""
    return _best(container, "audio", container.streams.audio)


def choice(kind: str, stream: av.stream.Stream, streams: Sequence[av.stream.Stream]) -> str:
    """Say which of several tracks is read; '' where there is but one.

    `kind`: what they hold, as 'sound'.
    """
    if len(streams) < 2:
        return ""
    marks = [word for key in ("title", "language") if (word := stream.metadata.get(key))]
    if stream.disposition & av.stream.Disposition.default:
        marks.append("the default")
    where = [other.index for other in streams].index(stream.index) + 1
    named = f" ({', '.join(marks)})" if marks else ""
    return f"has {len(streams)} tracks of {kind}; number {where}{named} is taken, as players do"


def _best(container: av.container.InputContainer, kind: str, streams: Sequence):
    """The stream that FFmpeg's players take, or else the first default one that can be decoded."""
    streams = [stream for stream in streams if stream.codec_context is not None]
    best = container.streams.best(kind)
    if best is not None and best.index in [stream.index for stream in streams]:
        return best
    marked = [s for s in streams if s.disposition & av.stream.Disposition.default]
    return next(iter(marked + streams), None)
