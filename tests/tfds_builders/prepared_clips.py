"""Prepares a test folder and reads what came of it."""

import io
import json
import warnings

import numpy as np
from PIL import Image

from ssp_jax.data.sources import ClipSource
from tfds_builders.prepare import prepare


class Prepared:
    """A source folder, where it goes, and what came of it."""

    def __init__(self, benchmark, source, prepared_dir):
        self.benchmark, self.source, self.prepared_dir = benchmark, source, prepared_dir

    def run(self, **options):
        return prepare(self.benchmark, self.source, self.prepared_dir, progress=False, **options)


def clips_of(folder, split):
    """uid -> clip of a prepared split."""
    source = ClipSource([(folder, split)])
    return {source[i].uid: source[i] for i in range(len(source))}


def pixels(encoded):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return np.asarray(Image.open(io.BytesIO(encoded)))


def everything(folder):
    """All records of a prepared data set, for comparing two of them."""
    splits = json.loads((folder / "dataset.json").read_text())["splits"]
    return {
        split: [
            (c.uid, c.frames, c.labels, c.waveform.tobytes(), c.annotated.tobytes())
            for c in clips_of(folder, split).values()
        ]
        for split, count in splits.items()
        if count
    }
