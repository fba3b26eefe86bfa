"""What a frozen encoder makes of the training frames, computed once and kept beside the data.

`<version folder>/encoder-<8 digits>/<split>/`, the digits of the SHA-256 of all that the maps
depend on; record = the four maps of an annotated frame, one after the other. A frame of 384 px
takes 8.8 MB with Swin-B in float32.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Float
from ml_collections import ConfigDict

from ssp_jax.batch import normalised_frames
from ssp_jax.data.frame_walk import Encoder, annotated_frames, encode_frames
from ssp_jax.data.source_store import Records, SourceStore
from ssp_jax.data.sources import ClipSource
from ssp_jax.data.transforms import Augment
from ssp_jax.errors import UserError
from ssp_jax.processes import in_turn
from ssp_jax.sharding import replicated
from ssp_jax.train_state import path_name
from ssp_jax.train_step import DTYPES, cast_floats, multiplied_in

FORMATS = ("float32", "float16", "bfloat16")
FRAMES_PER_SHARD = 64
_FORMAT = 1
_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class FeatureStore(SourceStore):
    """The encoder's maps of a source's annotated frames.

    Attributes:
      shapes: of a frame's four maps. dtype: they are kept in.
      starts: number of each clip's first frame among all annotated ones, and of all frames.
    """

    shapes: tuple[tuple[int, int, int], ...]
    dtype: np.dtype
    starts: tuple[int, ...]

    def read(self, clip: int, second: int) -> list[Float[np.ndarray, "h w C"]]:
        """Read the maps of one annotated frame: strides 4, 8, 16, 32.

        Raises:
          IndexError: no such clip, or the frame is not annotated.
          UserError: see `SourceStore.read_record`.
        """
        count = self.starts[clip + 1] - self.starts[clip]
        if not 0 <= second < count:
            raise IndexError(f"frame {second} of the {count} annotated ones of clip {clip}")
        return self.read_record(self.starts[clip] + second, self._decode)

    def _decode(self, record: bytes) -> list[Float[np.ndarray, "h w C"]]:
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])[:-1]
        parts = np.split(np.frombuffer(record, self.dtype), ends)
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]


def check_kept_features(config: ConfigDict) -> None:
    """Can `config.data.kept_features` be had, as far as the config tells?

    Raises:
      UserError: an unknown precision, or training changes frames.
    """
    kept_in = config.data.kept_features
    if not kept_in:
        return
    if kept_in not in FORMATS:
        raise UserError(
            f"config.data.kept_features={kept_in!r}: expected one of {', '.join(FORMATS)}, or '' "
            "for none"
        )
    if changes := Augment(**config.data.augment.to_dict()).changes_to_frames():
        raise UserError(
            f"config.data.augment: {', '.join(changes)}, but config.data.kept_features={kept_in} "
            "keeps what the encoder makes of the frames as they are. Set these to 0 (scale to "
            "(1, 1)), or kept_features to ''"
        )


def feature_shapes(
    graphdef: nnx.GraphDef, params: Mapping, frame_size: int
) -> tuple[tuple[int, int, int], ...]:
    """(h, w, C) of the encoder's four maps of a frame; `params` may be shapes."""
    frames = jax.ShapeDtypeStruct((1, frame_size, frame_size, 3), jnp.float32)
    maps = jax.eval_shape(
        lambda params, frames: nnx.merge(graphdef, params).network.encoder(frames), params, frames
    )
    return tuple(one.shape[1:] for one in maps)


def keep_features(
    source: ClipSource,
    graphdef: nnx.GraphDef,
    params: Mapping,
    mesh: Mesh,
    *,
    settings: Mapping[str, Any],
    frame_size: int,
    dtype: str,
    kept_in: str,
    visits: int,
    precision: str = "default",
    batch_size: int = 16,
    progress: bool = True,
) -> FeatureStore:
    """The encoder's maps of a source's annotated frames, computed now where they are not stored.

    Every process computes what its disk lacks, on its own devices, the first one before the others.

    Args:
      graphdef, params: of a `TrainedNetwork`, of which the encoder counts alone; params live on
        `mesh`.
      settings: what changes the encoder's results without showing in its parameters.
      dtype: what it computes in, a name of `DTYPES`. kept_in: of `FORMATS`.
      precision: see `multiplied_in`.
      visits: frame slots that will be filled from them; all frames are computed, even if a
        training visits few of each clip, since in its epochs it comes to nearly all.
      batch_size: frames at once, at least.

    Raises:
      UserError: the disk has not enough room, a map does not fit `kept_in`, a frame cannot be
        decoded; see `Records.add`.
    """
    encoder = nnx.merge(graphdef, params).network.encoder
    encoder_graphdef, _ = nnx.split(encoder, nnx.Param)
    weights = jax.jit(lambda x: x, out_shardings=replicated(mesh))(params["network"]["encoder"])
    weights = jax.device_get(weights)
    facts = {
        "format": _FORMAT,
        "weights": _digest(weights),
        "settings": dict(settings),
        "frame_size": frame_size,
        "computed_in": dtype,
        "kept_in": kept_in,
    }
    if precision != "default":  # of which what is kept from before this key says nothing
        facts["matmul_precision"] = precision
    records = _records(facts)
    shapes = feature_shapes(graphdef, params, frame_size)
    counts = source.table.num_annotated
    frame_bytes = sum(map(math.prod, shapes)) * jnp.dtype(kept_in).itemsize
    make = functools.cache(
        lambda: _make_encoder(encoder_graphdef, weights, dtype, precision, kept_in)
    )
    local = jax.local_device_count()

    def made(part, first: int) -> Iterator[bytes]:
        ends = np.cumsum(part.table().num_annotated)
        clip = int(np.searchsorted(ends, first, side="right"))
        frames = annotated_frames(part, clip)
        # A shard may have ended within the clip.
        done = first - (int(ends[clip - 1]) if clip else 0)
        maps = encode_frames(
            itertools.islice(frames, done, None),
            make(),
            size=frame_size,
            batch_size=-(-batch_size // local) * local,
        )
        for number, values in enumerate(maps, first):
            if not np.isfinite(values).all():
                raise UserError(
                    f"{part.folder}: annotated frame {number} of {part.split}: what the encoder "
                    f"makes of it does not fit {kept_in}. Set config.data.kept_features=float32, "
                    "or '' to go without"
                )
            yield values.tobytes()

    def add() -> None:
        _check_room(source, records, records.lacking(source, facts), frame_bytes, visits)
        records.add(source, facts, made, progress=progress)

    in_turn(add)
    starts = (0, *np.cumsum(counts).tolist())
    return FeatureStore(records.open(source), shapes, jnp.dtype(kept_in), starts)


def _digest(weights: Mapping) -> str:
    """SHA-256 of the parameters that count.

    An adapter whose `up` is 0, as they all are before they train, adds nothing, whatever its
    `down`, which the seed decides: without it the runs of several seeds share their features.
    """
    flat = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(weights)}
    digest = hashlib.sha256()
    for name, array in sorted(flat.items()):
        adapter, down, _ = name.rpartition("_adapter/down/")
        if down and not any(flat[f"{adapter}_adapter/up/{x}"].any() for x in ("kernel", "bias")):
            continue
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def _records(facts: Mapping[str, Any]) -> Records:
    def how(folder: str, split: str) -> str:
        return "run python -m ssp_jax.main again, which computes them"

    digits = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]
    # Compressed, a frame takes 7 % less room and eight times as long to write, three to read.
    return Records(
        f"encoder-{digits}",
        "encoder features",
        FRAMES_PER_SHARD,
        how,
        per_frame=True,
        compressed=False,
    )


def _check_room(
    source: ClipSource, records: Records, lacking: int, frame_bytes: int, visits: int
) -> None:
    """Say what the features take, and refuse where the disk lacks it."""
    # All of a run's data lie below one folder.
    folder, frames = Path(source.parts[0].folder), int(source.table.num_annotated.sum())
    free = shutil.disk_usage(folder).free
    _LOG.info(
        "encoder features of %d frames, %.1f MB each, %.1f GB in all, in %s: %d to compute, "
        "%.1f GB free",
        *(frames, frame_bytes / 1e6, frames * frame_bytes / 1e9, folder / records.name),
        *(lacking, free / 1e9),
    )
    if lacking * frame_bytes > free:
        raise UserError(
            f"{folder}: encoder features need {lacking * frame_bytes / 1e9:.1f} GB more, but "
            f"{free / 1e9:.1f} GB are free. Make room (folders encoder-* are of other weights or "
            "settings, and can be deleted), name another config.prepared_dir, or set "
            "config.data.kept_features=float16, which takes half of float32, or '' to go without"
        )
    if lacking > visits:
        _LOG.warning(
            "this phase visits %d frames only: computing the features of %d costs more time than "
            "it saves, unless other runs use them (config.data.kept_features)",
            *(visits, lacking),
        )
    others = sorted(path.name for path in folder.glob("encoder-*") if path.name != records.name)
    if lacking and others:
        _LOG.warning(
            "%s: %s hold features of other weights or settings; delete what no run needs",
            *(folder, ", ".join(others)),
        )


def _make_encoder(
    graphdef: nnx.GraphDef, weights: Mapping, dtype: str, precision: str, kept_in: str
) -> Encoder:
    mesh = Mesh(np.array(jax.local_devices()), ("data",))
    split = NamedSharding(mesh, jax.P("data"))
    weights = jax.device_put(weights, replicated(mesh))

    @jax.jit(in_shardings=(replicated(mesh), split), out_shardings=split)
    @multiplied_in(precision)
    def encode(weights, frames):
        encoder = nnx.merge(graphdef, cast_floats(weights, DTYPES[dtype]))
        maps = encoder(normalised_frames(frames).astype(DTYPES[dtype]))
        return jnp.concatenate(
            [one.reshape(len(frames), -1).astype(kept_in) for one in maps], axis=1
        )

    return lambda frames: jax.device_get(encode(weights, jax.device_put(frames, split)))
