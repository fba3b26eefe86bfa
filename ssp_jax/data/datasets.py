"""From config words to prepared clips: prepares what is not there yet, and opens it."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ssp_jax.data.reader import ReadSpec
from ssp_jax.data.sources import ClipSource
from ssp_jax.errors import UserError
from ssp_jax.files import check_writable
from ssp_jax.protocols import Protocol
from tfds_builders.facts import DatasetFacts, read_dataset_facts
from tfds_builders.prepare import GENERATED, builder_class, find, prepare


@dataclasses.dataclass(frozen=True)
class DataSets:
    """The prepared data sets of a run, each prepared once.

    Attributes:
      folders: benchmark -> prepared folder.
      class_names: background first, the same for all data sets of a semantic run.
      sound_names: all sound classes that any of them names.
      facts: benchmark -> what is known of it; of data that are not prepared yet, of its tables.
    """

    folders: dict[str, Path]
    class_names: tuple[str, ...]
    sound_names: tuple[str, ...]
    facts: Mapping[str, DatasetFacts] = dataclasses.field(default_factory=dict)

    def source(self, words: Sequence[str] | str) -> ClipSource:
        """Clips of 'benchmark:split' words, in order; one word may join several by '+'."""
        words = [words] if isinstance(words, str) else list(words)
        parts = [parse_word(part) for word in words for part in word.split("+")]
        return ClipSource([(self.folders[benchmark], split) for benchmark, split in parts])


def parse_word(word: str) -> tuple[str, str]:
    """('s4', 'train') of 's4:train'."""
    benchmark, colon, split = word.partition(":")
    if not colon or not split:
        raise UserError(
            f"data {word!r}, of config.STAGE.train, .val or .test: "
            "expected 'benchmark:split', as 's4:train'"
        )
    return benchmark, split


def scored_word(word: str, protocol: Protocol) -> str:
    """The word whose clips the protocol scores: 'avss:test_v1s' for 's4:test' where it says so.

    Protocols with `binary_targets` = semantic_labels score S4 and MS3 on AVSBench-semantic's v1s
    and v1m, which are the same clips with other masks (avsbench.md section 3).
    """
    if protocol.binary_targets != "semantic_labels":
        return word
    subsets = {"s4": "v1s", "ms3": "v1m"}
    parts = [parse_word(part) for part in word.split("+")]
    return "+".join(
        f"avss:{split}_{subsets[benchmark]}" if benchmark in subsets else f"{benchmark}:{split}"
        for benchmark, split in parts
    )


def check_data_dir(config: ConfigDict, words: Sequence[str]) -> list[str]:
    """The benchmarks that the words name.

    Raises:
      UserError: one is unknown, or has to be downloaded and `config.data_dir` is empty.
    """
    benchmarks = sorted({parse_word(part)[0] for word in words for part in word.split("+")})
    for benchmark in benchmarks:
        try:
            builder_class(benchmark)
        except UserError as error:
            raise UserError(
                f"config.avs, .avss or .objects, train, val or test: {error}"
            ) from error
    for benchmark in benchmarks:
        if benchmark not in GENERATED and not config.data_dir:
            raise UserError(_HOW_TO_GET.format(benchmark=benchmark, layout=_LAYOUT[benchmark]))
    return benchmarks


def open_datasets(config: ConfigDict, words: Sequence[str]) -> DataSets:
    """Prepare (on first use) every data set that the words name.

    Raises:
      UserError: the data are not there or damaged, with what is expected.
    """
    folders = {
        benchmark: prepare(benchmark, **_arguments(config))
        for benchmark in check_data_dir(config, words)
    }
    facts = {name: read_dataset_facts(folder) for name, folder in folders.items()}
    return _data_sets(folders, facts, words)


def find_datasets(config: ConfigDict, words: Sequence[str]) -> DataSets:
    """Do as `open_datasets`, but prepare nothing: folders may not exist yet.

    Raises:
      UserError: see `open_datasets`; damaged files do not show.
    """
    found = {name: find(name, **_arguments(config)) for name in check_data_dir(config, words)}
    facts = {name: fact for name, (_, fact) in found.items()}
    folders = {name: folder for name, (folder, _) in found.items()}
    for folder in folders.values():
        if not folder.exists():
            check_writable(folder, str(folder))
    return _data_sets(folders, facts, words)


def _arguments(config: ConfigDict) -> dict[str, Any]:
    return {
        "source": config.data_dir or None,
        "prepared_dir": config.prepared_dir,
        "frame_size": config.data.stored_size or None,
        "allow_missing": config.allow_missing,
    }


def _data_sets(
    folders: dict[str, Path], facts: dict[str, DatasetFacts], words: Sequence[str]
) -> DataSets:
    for part in dict.fromkeys(part for word in words for part in word.split("+")):
        benchmark, split = parse_word(part)
        filled = [name for name, count in facts[benchmark].splits.items() if count]
        if not any(name == split or name.startswith(f"{split}_") for name in filled):
            raise UserError(
                f"data {part!r}, of config.STAGE.train, .val or .test: {benchmark} has no clips of "
                f"a split {split!r}; it has {', '.join(sorted(filled))}"
            )
    sounds = sorted({name for fact in facts.values() for name in fact.sound_names})
    classes = max((tuple(fact.class_names) for fact in facts.values()), key=len)
    return DataSets(folders, classes, tuple(sounds), facts)


def read_spec(
    config: ConfigDict, data: DataSets, protocol: Protocol, *, binary: bool, **prompts
) -> ReadSpec:
    """Say how a stage of this run reads clips, at the protocol's sizes; prompts: see `ReadSpec`."""
    input_size = protocol.binary_input_size if binary else protocol.semantic_input_size
    return ReadSpec(
        frame_size=config.data.frame_size or input_size,
        label_size=protocol.binary_score_size if binary else protocol.semantic_score_size,
        label_rule=protocol.binary_target_resize if binary else protocol.semantic_target_resize,
        binary=binary,
        **prompts,
        sound_names=data.sound_names,
        sounds_from=config.data.sounds_from,
        class_names=data.class_names,
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
