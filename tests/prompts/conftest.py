"""A prepared data set without texts, whose frames tell clip and second, and the command."""

import io
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from ssp_jax.prompts import __main__ as prompts_command
from tests.commands import runner
from tfds_builders.facts import DatasetFacts, write_dataset_facts
from tfds_builders.features import clip_features

SPLITS = {"train": range(12), "test": range(12, 14)}  # second 1 of 13 is damaged


def _image(array: np.ndarray) -> io.BytesIO:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return io.BytesIO(buffer.getvalue())


class Textless(tfds.core.GeneratorBasedBuilder):
    """Clips of ten frames, each of one colour (clip, second, 0)."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = clip_features()
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(numbers) for split, numbers in SPLITS.items()}

    def _generate_examples(self, numbers):
        for number in numbers:
            frames = [_image(np.full((30, 40, 3), (number, s, 0), np.uint8)) for s in range(10)]
            if number == 13:
                frames[1] = io.BytesIO(frames[1].getvalue()[:50])
            yield (
                number,
                {
                    "uid": f"-clip{number}",
                    "vid": "",
                    "subset": "v2",
                    "category": "",
                    "frames": frames,
                    "labels": [_image(np.zeros((30, 40), np.uint8))],
                    "waveform": np.zeros(16_000, np.int16),
                    "annotated": np.arange(10) < 1,
                    "texts": {"scene": "", "sounding": ""},
                },
            )


@pytest.fixture(scope="session")
def textless(tmp_path_factory) -> Path:
    """The data set's folder."""
    builder = Textless(data_dir=tmp_path_factory.mktemp("tfds"), file_format="array_record")
    builder.download_and_prepare()
    counts = {split: len(numbers) for split, numbers in SPLITS.items()} | {"val": 0}
    facts = DatasetFacts("avss", ("background",), (), counts, 96, {}, "")
    write_dataset_facts(Path(builder.data_dir), facts)
    return Path(builder.data_dir)


@pytest.fixture
def command(monkeypatch, capsys):
    """See `runner`; the config is that of S4 unless another is given."""
    config = Path(__file__).parents[2] / "configs" / "s4.py"
    run = runner("ssp_jax.prompts", prompts_command.main, monkeypatch, capsys)
    return lambda *arguments: run(f"--config={config}", *arguments)
