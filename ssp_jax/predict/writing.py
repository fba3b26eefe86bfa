"""Predictions as files: a palette PNG of every second, and what sounds when and where as JSON."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ssp_jax.predict.predictor import SecondPrediction, Sounding
from tfds_builders.classes import palette

FORMAT = 1


def mask_path(folder: Path, second: int) -> Path:
    """Name the file of a second's mask; names sort as the seconds do."""
    return folder / "masks" / f"{second:05d}.png"


@dataclasses.dataclass
class PredictionWriter:
    """Writes the seconds of one video into a folder, in order.

    Attributes:
      folder: to write into. class_names: background first.
      seconds: what sounded in those written so far.
    """

    folder: Path
    class_names: Sequence[str]
    seconds: list[tuple[Sounding, ...]] = dataclasses.field(default_factory=list)

    def add(self, prediction: SecondPrediction) -> None:
        """Write the next second's mask: class indices, in the colours of AVSBench's labels."""
        path = mask_path(self.folder, len(self.seconds))
        path.parent.mkdir(exist_ok=True)
        image = Image.fromarray(prediction.labels)
        image.putpalette(palette(len(self.class_names)).tobytes())
        image.save(path)
        self.seconds.append(prediction.sounding)

    def read_mask(self, second: int) -> UInt8[np.ndarray, "H W"]:
        """A mask that was written."""
        with Image.open(mask_path(self.folder, second)) as image:
            return np.asarray(image)

    def finish(self, duration: float, facts: dict[str, Any]) -> None:
        """Write sounding.json; `facts` go to its beginning, `duration` is the video's, seconds."""
        seconds = []
        for second, sounding in enumerate(self.seconds):
            last = second == len(self.seconds) - 1
            seconds.append(
                {
                    "start": second,
                    "end": round(max(duration, second), 3) if last else second + 1,
                    "mask": mask_path(Path(), second).as_posix(),
                    "sounding": [_entry(one) for one in sounding],
                }
            )
        content = {"format": FORMAT, **facts, "classes": list(self.class_names)}
        lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()]
        rows = ",\n ".join(map(json.dumps, seconds))  # a second a line
        text = "{" + ",\n ".join([*lines, f'"seconds": [\n {rows}]']) + "}\n"
        (self.folder / "sounding.json").write_text(text)


def _entry(one: Sounding) -> dict[str, Any]:
    return {
        "class": one.name,
        "index": one.class_index,
        "share": round(one.share, 5),
        "box": list(one.box),
        "confidence": round(one.confidence, 4),
    }


def spans(seconds: Sequence[tuple[Sounding, ...]]) -> dict[str, list[tuple[int, int]]]:
    """Name -> (first second, one beyond the last) of every time that it sounds; the loudest in the
    picture, by pixels and seconds, first."""
    found: dict[str, list[tuple[int, int]]] = {}
    size: dict[str, float] = {}
    for second, sounding in enumerate(seconds):
        for one in sounding:
            times = found.setdefault(one.name, [])
            if times and times[-1][1] == second:
                times[-1] = (times[-1][0], second + 1)
            else:
                times.append((second, second + 1))
            size[one.name] = size.get(one.name, 0.0) + one.share
    return {name: found[name] for name in sorted(found, key=lambda name: -size[name])}
