"""TFDS builder of the built-in benchmark: generates, stores as ArrayRecord, needs no download."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

import tensorflow_datasets as tfds

from ssp_jax.errors import UserError
from tfds_builders.avs_builtin.catalogue import CLASS_NAMES, SPLITS, SUBSETS
from tfds_builders.avs_builtin.clip import clip
from tfds_builders.features import clip_features

_CLIPS_PER_SHARD = 50


@dataclasses.dataclass(eq=False)
class BuiltinConfig(tfds.core.BuilderConfig):
    """How much is generated.

    Attributes:
      sizes: subset -> (train, val, test) number of clips.
      seed: of everything that is random.
      frame_size: frames are stored at this square size; None keeps their own.
    """

    sizes: Mapping[str, tuple[int, int, int]] = dataclasses.field(default_factory=dict)
    seed: int = 0
    frame_size: int | None = None


_DEMO = {"v1s": (800, 60, 80), "v1m": (200, 40, 60), "v2": (160, 30, 50)}
_TINY = dict.fromkeys(SUBSETS, (6, 3, 3))


def split_name(split: str, subset: str) -> str:
    """Name of a TFDS split: 'train_v1s'."""
    return f"{split}_{subset}"


def builtin_config(name: str = "demo", *, frame_size: int | None = None) -> BuiltinConfig:
    """A named size of the benchmark, frames at their own size or at `frame_size` squared.

    Raises:
      UserError: unknown name, or a frame size below 16.
    """
    known = {config.name: config for config in AvsBuiltin.BUILDER_CONFIGS}
    if name not in known:
        raise UserError(f"built-in benchmark: no size called {name!r}; there are {sorted(known)}")
    if frame_size is None:
        return known[name]
    if frame_size < 16:
        raise UserError(f"built-in benchmark: frame_size is {frame_size}, expected 16 or more")
    return dataclasses.replace(known[name], name=f"{name}_{frame_size}px", frame_size=frame_size)


class AvsBuiltin(tfds.core.ShardBasedBuilder):
    """Generated clips in the three subsets of AVSBench (see the package's modules).

    Splits are '{train,val,test}_{v1s,v1m,v2}'; features `clip_features(with_objects=True)`; labels
    are class indices in every subset, `metadata['class_names']` tells them.
    """

    VERSION = tfds.core.Version("1.1.0")
    # Nothing is downloaded, so there are no checksums to look for beside the code; finding the code
    # would make TFDS import importlib_resources, which it does not declare for Python >= 3.9.
    code_path = None
    BUILDER_CONFIGS: Sequence[BuiltinConfig] = (
        BuiltinConfig(name="demo", description="Trains a small model in minutes.", sizes=_DEMO),
        BuiltinConfig(name="tiny", description="For tests.", sizes=_TINY),
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description="Generated audio-visual segmentation clips, deterministic by seed.",
            features=clip_features(with_objects=True),
            metadata=tfds.core.MetadataDict(
                class_names=list(CLASS_NAMES), seed=self.builder_config.seed
            ),
        )

    def _shard_iterators_per_split(self, dl_manager):
        del dl_manager
        config, shards = self.builder_config, {}
        for subset, counts in config.sizes.items():
            for split, count in zip(SPLITS, counts, strict=True):
                shards[split_name(split, subset)] = [
                    functools.partial(
                        generate,
                        config.seed,
                        split,
                        subset,
                        range(start, min(start + _CLIPS_PER_SHARD, count)),
                        config.frame_size,
                    )
                    for start in range(0, count, _CLIPS_PER_SHARD)
                ]
        return shards


def generate(
    seed: int, split: str, subset: str, indices: range, frame_size: int | None = None
) -> Iterator[tuple[str, dict]]:
    """Yields (uid, example) for some clips of a split; see `clip.clip`."""
    for index in indices:
        example = clip(seed, split, subset, index, frame_size=frame_size)
        yield example["uid"], example
