"""How much memory does reading a very long video take?

    python -m benchmarks.long_video [--frames=1000,100000] [--fps=1000]

Writes videos of 64 x 48 pixels with so many pictures, reads each as `python -m ssp_jax.predict`
does, in a process of its own, and prints the most memory that this took.
"""

import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import av
import numpy as np
from absl import app, flags

from ssp_jax.predict.reading import VideoReader

_FRAMES = flags.DEFINE_list("frames", ["1000", "100000"], "Pictures of each video.")
_FPS = flags.DEFINE_integer("fps", 1000, "Of all videos.")


def _write(path: Path, count: int, fps: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(count):
            frame = np.full((48, 64, 3), number % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def _read(path: Path, connection) -> None:
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    seconds = sum(len(clip.frames) for clip in VideoReader(path).clips())
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    connection.send((seconds, time.monotonic() - start, grown / 1024))


def main(argv):
    """Prints a line a video."""
    del argv
    context = multiprocessing.get_context("spawn")
    print("| pictures | seconds of video | read in | memory for it |\n|---|---|---|---|")
    for count in map(int, _FRAMES.value):
        with tempfile.TemporaryDirectory() as folder:
            path, (ours, theirs) = Path(folder) / "long.avi", context.Pipe()
            _write(path, count, _FPS.value)
            process = context.Process(target=_read, args=(path, theirs))
            process.start()
            seconds, took, memory = ours.recv()
            process.join()
            print(f"| {count} | {seconds} | {took:.1f} s | {memory:.0f} MiB |", flush=True)


if __name__ == "__main__":
    app.run(main)
