"""Throughput of the input pipeline at full size: frames/s by format and number of workers.

    python -m benchmarks.pipeline [--seconds=6]

Makes its own prepared data in a temporary folder (S4's 224x224 PNG and JPEG frames; AVSS's 1280x720
JPEG frames with label maps of that size), reads them as training batches of 16 frames at 384 with
labels at 224 and the log-mel window of each frame, and prints a markdown table. Frames in step with
a model are fewer: on CPU the two share the cores. The CPU time a frame holds on a busy machine too.
"""

import io
import os
import platform
import tempfile
import time

import cv2
import grain
import numpy as np
import PIL
import tensorflow_datasets as tfds
from absl import app, flags
from PIL import Image

from ssp_jax.data.frame_cache import FrameCache
from ssp_jax.data.log_mel import log_mel_windows
from ssp_jax.data.pipeline import train_batches
from ssp_jax.data.reader import ReadSpec
from ssp_jax.data.sources import ClipSource
from tfds_builders.features import clip_features

_SECONDS = flags.DEFINE_float("seconds", 6.0, "Measured time per line, seconds.")
CASES = {  # name: height, width, frame format, clips, frames of a clip
    "png_224": (224, 224, "PNG", 16, 5),
    "jpeg_224": (224, 224, "JPEG", 16, 5),
    "jpeg_1280x720": (720, 1280, "JPEG", 8, 10),
}
BATCH = 16


class Synthetic(tfds.core.GeneratorBasedBuilder):
    """Random photographs-like textures with one elliptic object per frame."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=clip_features())

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(*case) for name, case in CASES.items()}

    def _generate_examples(self, height, width, encoding, clips, frames):
        rng = np.random.default_rng(0)
        for number in range(clips):
            yield (
                number,
                {
                    "uid": f"clip{number}",
                    "vid": f"clip{number}",
                    "subset": "v2",
                    "category": "guitar",
                    "frames": [
                        _encoded(_texture(rng, height, width), encoding) for _ in range(frames)
                    ],
                    "labels": [
                        _encoded(_ellipse(rng, height, width), "PNG") for _ in range(frames)
                    ],
                    "waveform": rng.integers(-3000, 3000, 16_000 * frames).astype(np.int16),
                    "annotated": np.ones(frames, bool),
                    "texts": {"scene": "", "sounding": ""},
                },
            )


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Noise at four scales: about as large in JPEG as a photograph."""
    image = np.zeros((height, width, 3), np.float32)
    for cell, weight in ((64, 0.5), (16, 0.3), (4, 0.15), (1, 0.05)):
        noise = rng.random((height // cell + 1, width // cell + 1, 3), np.float32)
        image += weight * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(255 * image, 0, 255).astype(np.uint8)


def _ellipse(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    labels = np.zeros((height, width), np.uint8)
    centre = rng.integers(width // 4, width // 2), rng.integers(height // 4, height // 2)
    cv2.ellipse(labels, [int(c) for c in centre], (width // 6, height // 6), 0, 0, 360, 28, -1)
    return labels


def _encoded(image: np.ndarray, encoding: str) -> io.BytesIO:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, encoding, quality=90)
    return io.BytesIO(buffer.getvalue())


def frames_per_second(
    source: ClipSource, workers: int, seconds: float, cache: FrameCache | None = None
) -> tuple[float, float]:
    """(frames read per second, CPU ms of this process a frame), all running and the cache full."""
    spec = ReadSpec(frame_size=384, label_size=224, sound_names=("guitar",))
    options = {"batch_size": BATCH, "seed": 0, "num_workers": workers, "cache": cache}
    with train_batches(source, spec, **options) as batches:
        # Fills what is decoded ahead (and an epoch into the cache), so that only work is timed.
        for _ in range(2 + 4 * max(workers, 1)):
            next(batches)
        count, start, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - start < seconds:
            count += next(batches).frames.shape[0]
        rate = count / (time.perf_counter() - start)
        return rate, 1000 * (time.process_time() - cpu) / count


def main(argv):
    """Prints the table."""
    del argv
    with tempfile.TemporaryDirectory() as folder:
        builder = Synthetic(data_dir=folder, file_format="array_record")
        builder.download_and_prepare()
        print("| stored frames | KB | CPU ms a frame | threads | 1 worker | 2 workers | cached |")
        print("|---|---|---|---|---|---|---|")
        for name in CASES:
            source = ClipSource([(builder.data_dir, name)])
            size = np.mean([len(encoded) for encoded in source[0].frames]) / 1000
            runs = [frames_per_second(source, w, _SECONDS.value) for w in (0, 1, 2)]
            runs.append(frames_per_second(source, 0, _SECONDS.value, FrameCache(10**9)))
            rates = " | ".join(f"{rate:.0f}" for rate, _ in runs)
            print(f"| {name} | {size:.0f} | {runs[0][1]:.1f} | {rates} |", flush=True)
    waveform = np.random.default_rng(0).integers(-3000, 3000, 80_000).astype(np.int16)
    log_mel_windows(waveform)
    start = time.process_time()
    for _ in range(50):
        log_mel_windows(waveform)
    print(f"\nfront end: {20 * (time.process_time() - start):.1f} ms of CPU for 5 s of sound")
    versions = f"grain {grain.__version__}, Pillow {PIL.__version__}, OpenCV {cv2.__version__}"
    versions += f", NumPy {np.__version__}, tfds {tfds.__version__}"
    print(f"frames/s into 384x384, labels 224x224, batches of {BATCH}; {os.cpu_count()} cores;")
    print(f"Python {platform.python_version()}, {versions}; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    app.run(main)
