"""Base of the builders: clips are converted shard by shard, checked, staged, then handed to TFDS.

One pass does both the checking and the converting: whatever is wrong is collected and told at the
end, all at once, and what was whole need not be converted again once the rest has been mended.
"""

import abc
import concurrent.futures
import dataclasses
import hashlib
import json
import logging
import shutil
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer
from tqdm import tqdm

from ssp_jax.errors import UserError
from ssp_jax.files import check_writable
from tfds_builders.facts import (
    DatasetFacts,
    clips_digest,
    read_dataset_facts,
    write_dataset_facts,
)
from tfds_builders.features import clip_features
from tfds_builders.problems import (
    ClipResult,
    Problem,
    count_kinds,
    summary,
    write_problems_file,
)
from tfds_builders.staging import StagedExampleWriter, StagedShard, Staging
from tfds_builders.workers import check_guard, script_without_guard, workers

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Options:
    """How a data set is prepared.

    Attributes:
      frame_size: frames are stored at this side (square PNGs); None keeps the files' own bytes.
      allow_missing: a partial data set is wanted: leave out what is not whole.
      repeat_last_frame: a clip that starts at second 6 and lacks its fifth frame repeats the
        fourth.
    """

    frame_size: int | None = None
    allow_missing: bool = False
    repeat_last_frame: bool = False

    def __post_init__(self):
        if self.frame_size is not None and not 16 <= self.frame_size <= 4096:
            raise UserError(
                f"frame_size: expected 16..4096 pixels or none at all, got {self.frame_size}"
                " (a run has it as config.data.stored_size)"
            )


class ClipBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """A TFDS builder whose shards survive an interruption and whose checks speak all at once.

    Subclasses give the clips of each split and a converter; `prepare_dataset` does the rest.
    """

    VERSION = tfds.core.Version("1.0.0")
    BENCHMARK = ""  # name in messages and facts
    CLIPS_PER_SHARD = 64
    WITH_OBJECTS = False  # see clip_features
    USE_PROCESSES = False  # converters in processes: for those that hold the interpreter's lock
    # Nothing is downloaded, so there are no checksums to look for beside the code; finding the code
    # would make TFDS import importlib_resources, which it does not declare for Python >= 3.9.
    code_path = None

    def __init__(self, *, options: Options | None = None, progress: bool = True, **kwargs):
        """Takes TFDS's own arguments too (data_dir, config, version)."""
        self.options, self.progress = options or Options(), progress
        self._staged: dict[str, list[StagedShard]] = {}
        kwargs.setdefault("file_format", "array_record")
        kwargs.setdefault("config", self.config_for(self.options))
        super().__init__(**kwargs)

    @classmethod
    def config_for(cls, options: Options) -> tfds.core.BuilderConfig:
        """The TFDS config, a folder of its own: 'native', or 'frames384' with a frame size."""
        size = options.frame_size
        return tfds.core.BuilderConfig(name=f"frames{size}" if size else "native")

    @abc.abstractmethod
    def clips(self) -> Mapping[str, Sequence[Any]]:
        """The clips of every split, in their final order; each has a `uid`."""

    @abc.abstractmethod
    def converter(self) -> Callable[[Any], ClipResult]:
        """Turns a clip into its example; runs in several threads or (picklable) processes."""

    @abc.abstractmethod
    def fingerprint(self, clip: Any) -> str:
        """Changes whenever the clip's example would: its name, its files' sizes and dates, ..."""

    @abc.abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return what the data set is made from, as JSON values; cheap.

        Of two data sets only 'source' (a path) may differ, and only if all files agree.
        """

    @abc.abstractmethod
    def names(self) -> tuple[Sequence[str], Sequence[str]]:
        """(class_names, sound_names), see DatasetFacts."""

    def table_findings(self) -> tuple[Sequence[Problem], Sequence[Problem]]:
        """(problems, warnings) of the data set as a whole; such problems are never tolerated."""
        return (), ()

    def files_fingerprint(self) -> str:
        """Digest all source files, wherever the folder lies; the default is that of all clips."""
        return _digest([self.fingerprint(c) for clips in self.clips().values() for c in clips])

    # What TFDS calls.

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=clip_features(with_objects=self.WITH_OBJECTS),
        )

    def _create_builder_config(self, builder_config, version):
        del version
        return builder_config  # TFDS itself warns about every config it has no list of

    def _make_download_manager(self, download_dir, download_config):
        del download_dir, download_config  # it would make empty folders; nothing is downloaded
        return types.SimpleNamespace(downloaded_size=0)

    def _log_download_bytes(self) -> None:
        pass

    def _log_download_done(self) -> None:
        pass

    def _example_writer(self) -> StagedExampleWriter:
        return StagedExampleWriter(self._staged)

    def _shard_iterators_per_split(self, dl_manager):
        del dl_manager

        def stand_ins(shard: StagedShard):
            return lambda: ((uid, None) for uid in shard.uids)

        return {s: [stand_ins(shard) for shard in shards] for s, shards in self._staged.items()}

    def _download_and_prepare(self, dl_manager, download_config=None) -> None:
        target = Path(self.data_dir)  # TFDS's temporary folder while this runs
        facts, self._staged = self._convert()
        super()._download_and_prepare(dl_manager, download_config)
        write_dataset_facts(target, facts)

    # Converting and checking.

    @property
    def problems_path(self) -> Path:
        """Where the full list of problems is written: beside the version folder."""
        return self._target.with_name(f"{self._target.name}.problems.txt")

    @property
    def _target(self) -> Path:
        # Not data_dir, which is a temporary folder while TFDS writes.
        config, version = self.builder_config.name, str(self.version)
        return Path(self.data_dir_root, self.name, config, version)

    @classmethod
    def target_for(cls, prepared_dir: str | Path, options: Options) -> Path:
        """The version folder that a data set of these options gets."""
        return Path(prepared_dir, cls.name, cls.config_for(options).name, str(cls.VERSION))

    def _convert(self) -> tuple[DatasetFacts, dict[str, list[StagedShard]]]:
        """Stages every shard, checks, and returns the facts and the shards that hold clips."""
        shards = self._stage()
        table_problems, table_warnings = map(list, self.table_findings())
        every = [shard for split in shards.values() for shard in split]
        problems = table_problems + [p for shard in every for p in shard.problems]
        warnings = table_warnings + [w for shard in every for w in shard.warnings]
        left_out = {uid for shard in every for uid in shard.left_out}
        self._report(table_problems, problems, warnings, left_out)
        if not any(shard.uids for shard in every):
            raise UserError(f"{self.BENCHMARK}: not a single whole clip; nothing was written.")
        class_names, sound_names = self.names()
        tolerated = [p for p in problems if p.clip not in left_out]
        facts = DatasetFacts(
            benchmark=self.BENCHMARK,
            class_names=tuple(class_names),
            sound_names=tuple(sound_names),
            splits={s: sum(len(x.uids) for x in split) for s, split in shards.items()},
            clips={s: clips_digest(u for x in part for u in x.uids) for s, part in shards.items()},
            frame_size=self.options.frame_size,
            identity=self.identity(),
            files=self.files_fingerprint(),
            left_out=[dataclasses.asdict(p) for p in problems if p.clip in left_out],
            tolerated=[dataclasses.asdict(p) for p in tolerated],
            warnings=[dataclasses.asdict(w) for w in warnings],
            warning_counts=count_kinds([*tolerated, *warnings]),
        )
        # TFDS gives an empty split "unknown" clips; a reader had better hear that it is not there.
        filled = {s: [x for x in split if x.uids] for s, split in shards.items()}
        return facts, {split: shards for split, shards in filled.items() if shards}

    def _report(self, table_problems, problems, warnings, left_out: set[str]) -> None:
        """Raises for problems that are not tolerated; prints and stores the others."""
        path = self.problems_path
        findings = [*problems, *warnings]
        if findings:
            write_problems_file(path, findings)
        else:
            path.unlink(missing_ok=True)
        refused = problems if not self.options.allow_missing else table_problems
        if refused:
            counts = ", ".join(f"{n} {kind}" for kind, n in count_kinds(refused).items())
            hint = "Mend them and run the same command again: finished clips are kept"
            if not table_problems:
                hint += ", or add --allow_missing to prepare what is whole"
            raise UserError(
                f"{self.BENCHMARK}: {_number(refused, 'problem')} ({counts}); no data set was"
                f" written.\n"
                f"{summary(refused, path)}\n{hint}."
            )
        if problems:
            _LOG.warning(
                "%s: a partial data set, %d clips left out:\n%s",
                self.BENCHMARK,
                len(left_out),
                summary(problems, path),
            )
        if warnings:
            _LOG.warning(
                "%s: %s:\n%s",
                self.BENCHMARK,
                _number(warnings, "warning"),
                summary(warnings, path),
            )

    def _stage(self) -> dict[str, list[StagedShard]]:
        staging = Staging(self._target)
        plan = [
            (split, index, _digest([self.fingerprint(clip) for clip in part]), part)
            for split, clips in self.clips().items()
            for index, part in enumerate(_batched(clips, self.CLIPS_PER_SHARD))
        ]
        staging.prune([key for *key, _ in plan])
        shards: dict[str, list[StagedShard]] = {split: [] for split in self.clips()}
        total = sum(len(part) for *_, part in plan)
        with (
            tqdm(total=total, desc=self.BENCHMARK, unit="clip", disable=not self.progress) as bar,
            workers(processes=self.USE_PROCESSES) as executor,
        ):
            for split, index, fingerprint, part in plan:
                shard = staging.find(split, index, fingerprint)
                if shard is None:
                    key = (split, index, fingerprint)
                    shard = self._make_shard(staging, key, part, executor, bar)
                else:
                    bar.update(len(part))
                shards[split].append(shard)
        return shards

    def _make_shard(self, staging, key, part, executor, bar) -> StagedShard:
        features = self.info.features
        serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
        found = {"left_out": [], "problems": [], "warnings": []}

        def serialized() -> Iterator[tuple[str, bytes]]:
            for result in executor.map(self.converter(), part):
                found["problems"] += result.problems
                found["warnings"] += result.warnings
                bar.update()
                if result.example is None:
                    found["left_out"].append(result.uid)
                    continue
                encoded = features.encode_example(result.example)
                yield result.uid, serializer.serialize_example(encoded)

        return staging.write(*key, serialized(), **found)


def prepare_dataset(builder: ClipBuilder) -> Path:
    """Prepares a builder's data set and returns its version folder; at once if it is there.

    Finished shards wait in '<version>.staging' beside the target, so an interrupted run goes on
    where it stopped; the target itself appears by one rename, whole or not at all.

    Raises:
      UserError: something is wrong with the source (every problem is listed), the target holds
        another data set, or it cannot be written; a script without a guard.
    """
    target = Path(builder.data_dir)
    check_guard(target)
    if not target.exists():
        check_writable(target, str(target))
    try:
        staging = Staging(target)
        with staging.lock():
            if target.exists():
                check_same(builder, read_dataset_facts(target), target)
            else:
                # A killed run leaves TFDS's temporary folder, which nobody would ever remove.
                for stale in target.parent.glob(f"incomplete.*_{target.name}"):
                    shutil.rmtree(stale)
                builder.download_and_prepare()
            staging.remove()
    except concurrent.futures.BrokenExecutor as error:
        if script := script_without_guard():
            raise UserError(
                f"{script}: its worker processes read this script anew, and cannot, since it has "
                f"no if __name__ == '__main__': around what it does. Put that there. {target} is "
                "not prepared yet; finished clips are kept"
            ) from error
        raise UserError(
            f"{target}: a worker process ended, perhaps for want of memory; its last words "
            "are above. Finished clips are kept: run the same command again"
        ) from error
    except OSError as error:
        raise UserError(
            f"{target}: cannot be written ({error}). Finished clips are kept; once there is room or"
            " permission, run the same command again."
        ) from error
    return target


def planned_facts(builder: ClipBuilder) -> DatasetFacts:
    """Facts of a data set that is not prepared yet, as far as its tables tell."""
    class_names, sound_names = builder.names()
    return DatasetFacts(
        benchmark=builder.BENCHMARK,
        class_names=tuple(class_names),
        sound_names=tuple(sound_names),
        splits={split: len(clips) for split, clips in builder.clips().items()},
        frame_size=builder.options.frame_size,
        identity=builder.identity(),
        files="",
    )


def check_same(builder: ClipBuilder, facts: DatasetFacts, target: Path) -> None:
    """Makes sure that a prepared data set is the one that is asked for.

    Raises:
      UserError: it was made from another source or with other options, or is partial where a
        whole one is wanted.
    """
    advice = f"Delete {target} to prepare it anew, or name another --prepared_dir"
    stored, wanted = dict(facts.identity), json.loads(json.dumps(builder.identity()))
    keys = [key for key in stored.keys() | wanted.keys() if stored.get(key) != wanted.get(key)]
    if keys and not (keys == ["source"] and facts.files == builder.files_fingerprint()):
        differences = "; ".join(
            f"{key}: {stored.get(key)} there, {wanted.get(key)} asked for" for key in sorted(keys)
        )
        raise UserError(f"{target} was prepared from another source ({differences}). {advice}.")
    check_options(builder.options, facts, target)
    if facts.left_out and facts.files != builder.files_fingerprint():
        raise UserError(
            f"{target} is a partial data set, and its source has changed since. {advice}."
        )


def check_options(options: Options, facts: DatasetFacts, target: Path) -> None:
    """Makes sure that a prepared data set is as whole as it is asked for.

    Raises:
      UserError: it is partial, or repeats frames, and that was not allowed.
    """
    advice = f"Delete {target} to prepare it anew, or name another --prepared_dir"
    left_out = {entry["clip"] for entry in facts.left_out}
    if not options.allow_missing and (left_out or facts.tolerated):
        raise UserError(
            f"{target} is a partial data set: {len(left_out)} clips were left out and"
            f" {len(facts.tolerated)} problems tolerated when it was prepared with --allow_missing."
            f" Add that flag to use it as it is. {advice}."
        )
    repeated = facts.warning_counts.get("repeated_frame", 0)
    if repeated and not options.repeat_last_frame:
        raise UserError(
            f"{target} was prepared with --repeat_last_frame: {repeated} clips repeat their last"
            f" frame. Add that flag to use it as it is. {advice}."
        )


def _number(things: Sequence[Any], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


def _batched(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
