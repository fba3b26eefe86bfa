"""TFDS builder of the built-in benchmark: generates its clips, needs no download."""

import dataclasses
import functools
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from PIL import Image

from ssp_jax.errors import UserError
from tfds_builders.avs_builtin.catalogue import CLASS_NAMES, SPLITS, SUBSETS
from tfds_builders.avs_builtin.clip import clip
from tfds_builders.avs_builtin.scene import clip_names
from tfds_builders.base import ClipBuilder, Options, prepare_dataset
from tfds_builders.pictures import stored_frame
from tfds_builders.problems import ClipResult

# size -> subset -> number of (train, val, test) clips. 'demo' trains a small model in minutes.
SIZES: Mapping[str, Mapping[str, tuple[int, int, int]]] = {
    "demo": {"v1s": (2000, 60, 80), "v1m": (300, 40, 60), "v2": (200, 30, 50)},
    "tiny": dict.fromkeys(SUBSETS, (6, 3, 3)),
}


@dataclasses.dataclass(frozen=True)
class ClipKey:
    """Which clip: all that its generation needs besides the seed; and its name."""

    split: str
    subset: str
    index: int
    uid: str


def clip_keys(size: str, seed: int = 0) -> dict[str, list[ClipKey]]:
    """The clips of every split '{train,val,test}_{v1s,v1m,v2}' of a size.

    Raises:
      UserError: no such size.
    """
    if size not in SIZES:
        raise UserError(f"built-in benchmark: no size {size!r}; there are {', '.join(SIZES)}")
    return {
        f"{split}_{subset}": [
            ClipKey(split, subset, index, clip_names(seed, split, subset, index)[1])
            for index in range(counts[SPLITS.index(split)])
        ]
        for split in SPLITS
        for subset, counts in SIZES[size].items()
    }


class AvsBuiltin(ClipBuilder):
    """Generated clips in the three subsets of AVSBench, deterministic by seed.

    Splits are '{train,val,test}_{v1s,v1m,v2}'. Labels are class indices in every subset. Training
    clips of v1s are annotated in their first frame only.
    """

    # Counts up whenever a clip's content changes.
    VERSION = tfds.core.Version("1.4.0")
    BENCHMARK = "builtin"
    WITH_OBJECTS = True
    USE_PROCESSES = True
    SIZE = "demo"

    def __init__(self, *, options: Options | None = None, seed: int = 0, **kwargs):
        """Takes TFDS's own arguments too; another seed makes another data set of the same kind."""
        self.seed = seed
        if seed:
            config = self.config_for(options or Options())
            kwargs["config"] = dataclasses.replace(config, name=f"{config.name}_seed{seed}")
        super().__init__(options=options, **kwargs)

    @functools.cached_property
    def _keys(self) -> dict[str, list[ClipKey]]:
        return clip_keys(self.SIZE, self.seed)

    def clips(self) -> Mapping[str, Sequence[ClipKey]]:
        return self._keys

    def converter(self) -> Callable[[ClipKey], ClipResult]:
        return functools.partial(generate, seed=self.seed, frame_size=self.options.frame_size)

    def fingerprint(self, clip: ClipKey) -> str:
        return f"{self.VERSION}/{self.seed}/{clip.split}/{clip.uid}"

    def identity(self) -> dict[str, Any]:
        return {"size": self.SIZE, "seed": self.seed, "counts": SIZES[self.SIZE]}

    def names(self) -> tuple[Sequence[str], Sequence[str]]:
        return CLASS_NAMES, CLASS_NAMES[1:]


class AvsBuiltinTiny(AvsBuiltin):
    """The built-in benchmark with a handful of clips, for tests."""

    SIZE = "tiny"


def generate(key: ClipKey, *, seed: int, frame_size: int | None) -> ClipResult:
    """Generates one clip; with a frame size its frames become PNGs as every builder stores them."""
    example = clip(seed, key.split, key.subset, key.index)
    if frame_size is not None:
        example["frames"] = [
            stored_frame(Image.open(io.BytesIO(frame)), frame, frame_size)
            for frame in example["frames"]
        ]
    return ClipResult(key.uid, example)


def prepare_builtin(
    prepared_dir: str | Path,
    *,
    size: str = "demo",
    seed: int = 0,
    frame_size: int | None = None,
    progress: bool = True,
) -> Path:
    """Generates a built-in data set, unless it is there, and returns its folder.

    Args:
      prepared_dir: where prepared data sets go, each in a folder of its own.
      size: 'demo' or 'tiny'.
      seed: of everything random.
      frame_size: store frames as square PNGs of this side; label maps stay native.
      progress: show a progress bar.

    Raises:
      UserError: no such size, unusable frame size or folder.
    """
    builders = {builder.SIZE: builder for builder in (AvsBuiltin, AvsBuiltinTiny)}
    if size not in builders:
        raise UserError(f"built-in benchmark: no size {size!r}; there are {', '.join(builders)}")
    options = Options(frame_size=frame_size)
    builder = builders[size](options=options, seed=seed, data_dir=prepared_dir, progress=progress)
    return prepare_dataset(builder)
