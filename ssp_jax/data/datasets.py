"""From config words to prepared clips: prepares what is not there yet, and opens it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from ssp_jax.data.reader import ReadSpec
from ssp_jax.data.sources import ClipSource
from ssp_jax.errors import UserError
from tfds_builders.facts import read_dataset_facts
from tfds_builders.prepare import GENERATED, builder_class, prepare


@dataclasses.dataclass(frozen=True)
class DataSets:
    """The prepared data sets of a run, each prepared once.

    Attributes:
      folders: benchmark -> prepared folder.
      class_names: background first, the same for all data sets of a semantic run.
      sound_names: all sound classes that any of them names.
    """

    folders: dict[str, Path]
    class_names: tuple[str, ...]
    sound_names: tuple[str, ...]

    def source(self, words: Sequence[str] | str) -> ClipSource:
        """Clips of 'benchmark:split' words, in order; one word may join several by '+'."""
        words = [words] if isinstance(words, str) else list(words)
        parts = [parse_word(part) for word in words for part in word.split("+")]
        return ClipSource([(self.folders[benchmark], split) for benchmark, split in parts])


def parse_word(word: str) -> tuple[str, str]:
    """('s4', 'train') of 's4:train'."""
    benchmark, colon, split = word.partition(":")
    if not colon or not split:
        raise UserError(f"data {word!r} in the config: expected 'benchmark:split', as 's4:train'")
    return benchmark, split


def open_datasets(config: ConfigDict, words: Sequence[str]) -> DataSets:
    """Prepare (on first use) every data set that the words name.

    Raises:
      UserError: the data are not there or damaged, with what is expected.
    """
    benchmarks = sorted({parse_word(part)[0] for word in words for part in word.split("+")})
    folders = {}
    for benchmark in benchmarks:
        builder_class(benchmark)  # an unknown name is told before anything else
        if benchmark not in GENERATED and not config.data_dir:
            raise UserError(_HOW_TO_GET.format(benchmark=benchmark, layout=_LAYOUT[benchmark]))
        folders[benchmark] = prepare(
            benchmark,
            config.data_dir or None,
            config.prepared_dir,
            frame_size=config.data.stored_size or None,
            allow_missing=config.allow_missing,
        )
    facts = [read_dataset_facts(folder) for folder in folders.values()]
    sounds = sorted({name for fact in facts for name in fact.sound_names})
    classes = max((tuple(fact.class_names) for fact in facts), key=len)
    return DataSets(folders, classes, tuple(sounds))


def read_spec(config: ConfigDict, data: DataSets, *, binary: bool, label_size: int) -> ReadSpec:
    """How this run reads clips; see `ReadSpec`."""
    return ReadSpec(
        frame_size=config.data.frame_size,
        label_size=label_size,
        binary=binary,
        sound_names=data.sound_names,
        sounds_from=config.data.sounds_from,
        class_names=data.class_names if config.data.sounds_from == "labels" else (),
    )


_LAYOUT = {
    "s4": "the folder that holds Single-source/s4_meta_data.csv and Single-source/s4_data/",
    "ms3": "the folder that holds Multi-sources/ms3_meta_data.csv and Multi-sources/ms3_data/",
    "avss": "the folder that holds metadata.csv, label2idx.json, v1s/, v1m/ and v2/",
}
_HOW_TO_GET = (
    "--config.data_dir is empty. {benchmark} is part of AVSBench: request it at "
    "https://github.com/OpenNLPLab/AVSBench, unpack it, and pass {layout} as "
    "--config.data_dir=DIR. Without data, try the built-in benchmark: "
    "python -m ssp_jax.main --config=configs/demo.py"
)
