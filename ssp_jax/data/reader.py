"""Frames of a clip as arrays of the model's sizes, with the sound of their second.

Runs in threads and worker processes: no JAX here.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

from ssp_jax.batch import BACKBONE
from ssp_jax.data import log_mel, sounds, transforms
from ssp_jax.data.beside import Beside, ClipMaps
from ssp_jax.data.frame_cache import FrameCache
from ssp_jax.data.sources import Clip, ClipSource
from ssp_jax.errors import UserError

Reference = Literal["truth", "stage1", "own", "empty"]
Slots = dict[str, np.ndarray]  # AVBatch's fields by name, for a number of slots


@dataclasses.dataclass(frozen=True)
class Heard:
    """What is heard in a clip.

    Attributes:
      kind: its own sound, or one that replaces it.
      lender: foreign: the clip that is heard. seed, level: noise: of `log_mel.noise_windows`.
    """

    kind: sounds.Sounds = "own"
    lender: int | None = None
    seed: tuple[int, ...] = ()
    level: float = 1.0


@dataclasses.dataclass(frozen=True)
class ReadSpec:
    """How clips become arrays; the same for training and evaluation.

    Attributes:
      frame_size: side of the frames given to the model, pixels.
      label_size: side of the label maps, pixels (224: where AVSBench is scored).
      binary: labels are 1 where anything sounds (S4, MS3, stage 1), else class indices.
      labels_from: labels (what sounds), or objects (what is visible, where the data set knows it).
      label_rule: `transforms.resize_labels`; bilinear_above_zero only for binary labels.
      sound_names: the S sound classes, possibly none.
      sounds_from: category (of the clip) or labels (classes of the annotated frame; semantic data).
      class_names: name of each class index, background first; needed for sounds_from = labels and
        to know which foreign sounds are off screen.
      short_audio: `log_mel.windows_for_frames`.
      reference: slots have a reference (method 3.6, 4.2). flow_mask: slots have a flow mask.
      text_length: L, tokens of a clip's texts; 0 for slots without.
      visual_tokens: slots have CLIP's tokens, which no geometry moves.
    """

    frame_size: int
    label_size: int = 224
    binary: bool = False
    labels_from: Literal["labels", "objects"] = "labels"
    label_rule: transforms.LabelRule = "nearest"
    sound_names: tuple[str, ...] = ()
    sounds_from: Literal["category", "labels"] = "category"
    class_names: tuple[str, ...] = ()
    short_audio: log_mel.ShortAudio = "repeat"
    reference: bool = False
    flow_mask: bool = False
    text_length: int = 0
    visual_tokens: bool = False

    def __post_init__(self):
        object.__setattr__(self, "sound_names", tuple(self.sound_names))
        object.__setattr__(self, "class_names", tuple(self.class_names))
        if self.frame_size < 1 or self.label_size < 1:
            raise UserError(f"sizes must be positive: {self.frame_size}, {self.label_size}")
        if self.label_rule not in ("nearest", "bilinear_above_zero"):
            raise UserError(
                f"label_rule: expected nearest or bilinear_above_zero, got {self.label_rule!r}"
            )
        if self.label_rule == "bilinear_above_zero" and not self.binary:
            raise UserError("label_rule: bilinear_above_zero needs binary labels; use nearest")
        if self.sounds_from not in ("category", "labels"):
            raise UserError(f"sounds_from: expected category or labels, got {self.sounds_from!r}")
        if self.sounds_from == "labels" and not self.class_names:
            raise UserError("sounds_from: labels needs class_names")
        if self.short_audio not in ("repeat", "silence", "zeros"):
            raise UserError(
                f"short_audio: expected repeat, silence or zeros, got {self.short_audio!r}"
            )


class FrameReader:
    """Reads visits of a source's clips; pickles without its cache."""

    def __init__(
        self,
        source: ClipSource,
        spec: ReadSpec,
        cache: FrameCache | None = None,
        beside: Beside | None = None,
    ):
        """`beside`: of the same source; maps that it lacks are empty in the slots."""
        self.source, self.spec, self._cache = source, spec, cache
        self.beside = beside or Beside()
        self.table = source.table
        self._key = source.name, spec

    def __getstate__(self):
        return {**vars(self), "_cache": None}

    def read(
        self,
        index: int,
        seconds: Sequence[int],
        *,
        heard: Heard = Heard(),
        geometry: transforms.Geometry | None = None,
        colour: transforms.Colour | None = None,
        unlabelled: bool = False,
        reference: Reference = "empty",
    ) -> Slots:
        """One slot per second asked for, as AVBatch's fields.

        Args:
          heard: what sounds, with its sound classes: none in silence and noise.
          geometry, colour: transforms of the frames; the geometry moves the labels likewise.
          unlabelled: all labels are background, since what is seen is not what sounds.
          reference: where slots have one: what the labels say sounds, what stage 1 predicted when
            it heard a sound of this kind, the network's own first guess, or nothing.

        Raises:
          UserError: an image cannot be decoded; names data set, clip and frame.
        """
        clip = self._clip(index)
        annotated = np.array([s < self.table.num_annotated[index] for s in seconds], bool)
        size = self.spec.label_size
        blank = np.zeros((size, size), np.uint8)
        features = self.beside.features
        unread = np.zeros((self.spec.frame_size, self.spec.frame_size, 3), np.uint8)
        frames, labels, references, flow_masks = [], [], [], []
        for second, has_labels in zip(seconds, annotated, strict=True):
            frame = self._frame(clip, index, second) if features is None else unread
            label = self._label(clip, index, second)[0] if has_labels else blank
            if geometry is not None:
                frame, label = geometry.frame(frame), geometry.labels(label)
            frames.append(frame if colour is None else colour.frame(frame))
            labels.append(blank if unlabelled else label)
            if self.spec.reference:
                mask = blank
                if reference == "stage1" and has_labels:
                    maps = (self.beside.masks or {}).get(heard.kind)
                    mask = self._map("masks", maps, index, second)
                    mask = mask if geometry is None else geometry.labels(mask)
                elif reference == "truth":
                    mask = np.uint8(255) * (labels[-1] > 0)
                references.append(mask)
            if self.spec.flow_mask:
                mask = self._map("flow_masks", self.beside.flow_masks, index, second)
                flow_masks.append(mask if geometry is None else geometry.labels(mask))
        windows, which, known = self._heard(clip, index, seconds, heard)
        slots = {}
        if self.spec.reference:
            slots["reference"] = np.stack(references)
            slots["own_reference"] = np.full(len(seconds), reference == "own")
        if self.spec.flow_mask:
            slots["flow_mask"] = np.stack(flow_masks)
        if self.spec.text_length:
            mirrored = int(geometry is not None and geometry.flip)
            for name, array in self.beside.texts.items():
                slots[name] = np.tile(array[mirrored, index], (len(seconds), 1))
        if self.spec.visual_tokens:
            slots["visual_tokens"] = self._tokens(index, seconds, annotated)
        if features is not None:
            # Not through the cache, as the tokens; what fits into memory, the system keeps there.
            read = zip(*(features.read(index, second) for second in seconds), strict=True)
            slots |= dict(zip(BACKBONE, map(np.stack, read), strict=True))
        return slots | {
            "frames": np.stack(frames),
            "log_mel": windows[list(seconds)],
            "labels": np.stack(labels),
            "valid": np.ones(len(seconds), bool),
            "annotated": annotated,
            "clip": np.full(len(seconds), index, np.int32),
            "second": np.array(seconds, np.int32),
            "sounds": which,
            "sounds_known": known,
        }

    def maps(self, index: int, name: str, seconds: Sequence[int]) -> UInt8[np.ndarray, "n h w"]:
        """Further maps of the built-in benchmark (objects, moving) at the label size, nearest.

        For baselines and reports, never an input of the model.

        Raises:
          UserError: the data set has no such maps, or one cannot be decoded.
        """
        clip = self.source[index]
        maps = [_further_map(clip, name, second) for second in seconds]
        return np.stack([transforms.resize_labels(m, self.spec.label_size) for m in maps])

    def visible(self, index: int) -> Float[np.ndarray, " S"] | None:
        """Multi-hot: the sound classes in the picture, silent ones too. None where the data set
        does not know them, as only the built-in benchmark does."""
        if not self._knows_visible:
            return None
        clip, names = self.source[index], (self.spec.class_names, self.spec.sound_names)
        shown = sounds.category_sounds(clip.category, self.spec.sound_names)[0]
        for second in range(len(clip.maps["objects"])):
            objects = _further_map(clip, "objects", second)
            shown = np.maximum(shown, sounds.label_sounds(objects, *names))
        return shown

    @functools.cached_property
    def _knows_visible(self) -> bool:
        return bool(self.spec.sound_names) and "objects" in self.source[0].maps

    def empty(self, count: int) -> Slots:
        """Slots without a frame: zeros, valid = False, clip = -1; to be filled."""
        spec = self.spec
        size, scored = spec.frame_size, spec.label_size
        slots = {}
        if spec.reference:
            slots["reference"] = np.zeros((count, scored, scored), np.uint8)
            slots["own_reference"] = np.zeros(count, bool)
        if spec.flow_mask:
            slots["flow_mask"] = np.zeros((count, scored, scored), np.uint8)
        if spec.text_length:
            # "No text" has tokens too: a row without any would have nothing to attend to.
            for name, array in self.beside.texts.items():
                slots[name] = np.tile(array[0, -1], (count, 1))
        if spec.visual_tokens:
            slots["visual_tokens"] = np.zeros((count, *self.beside.visual_tokens.shape), np.float16)
        if (features := self.beside.features) is not None:
            for name, shape in zip(BACKBONE, features.shapes, strict=True):
                slots[name] = np.zeros((count, *shape), features.dtype)
        return slots | {
            "frames": np.zeros((count, size, size, 3), np.uint8),
            "log_mel": np.zeros((count, log_mel.FRAMES, log_mel.BANDS), np.float32),
            "labels": np.zeros((count, scored, scored), np.uint8),
            "valid": np.zeros(count, bool),
            "annotated": np.zeros(count, bool),
            "clip": np.full(count, -1, np.int32),
            "second": np.zeros(count, np.int32),
            "sounds": np.zeros((count, len(spec.sound_names)), np.float32),
            "sounds_known": np.zeros(count, bool),
        }

    def _clip(self, index: int) -> "_Once":
        return _Once(self.source, index, self.table.uid[index])

    def _kept(self, what: tuple, make: Callable[[], tuple[np.ndarray, ...]]):
        if self._cache is None:
            return make()
        return self._cache.get((self._key, what), make)

    def _frame(self, clip: "_Once", index: int, second: int) -> UInt8[np.ndarray, "s s 3"]:
        def make():
            where = _where(clip.value, second, "frame")
            encoded = clip.value.frames[second]
            return (transforms.decode_frame(encoded, self.spec.frame_size, where=where),)

        return self._kept(("frame", index, second), make)[0]

    def _label(self, clip: "_Once", index: int, second: int):
        """(label map at the label size, multi-hot sound classes in the full map if asked for)."""

        def make():
            spec = self.spec
            where = _where(clip.value, second, "label map")
            labels = transforms.decode_labels(clip.value.labels[second], where=where)
            heard = np.zeros(len(spec.sound_names), np.float32)
            if spec.sounds_from == "labels":
                heard = sounds.label_sounds(labels, spec.class_names, spec.sound_names)
            if spec.labels_from != "labels":
                labels = _further_map(clip.value, spec.labels_from, second)
            if not spec.binary and spec.class_names and labels.max() >= len(spec.class_names):
                raise UserError(
                    f"{where}: class index {labels.max()}, but there are {len(spec.class_names)} "
                    "classes. Prepare the data set again"
                )
            labels = transforms.resize_labels(labels, spec.label_size, spec.label_rule)
            return (labels > 0).astype(np.uint8) if spec.binary else labels, heard

        return self._kept(("label", index, second), make)

    def _map(
        self, name: str, maps: ClipMaps | None, index: int, second: int
    ) -> UInt8[np.ndarray, "s s"]:
        """A map that lies beside the clip, at the label size."""
        size = self.spec.label_size

        def make():
            if maps is None:
                return (np.zeros((int(self.table.num_frames[index]), size, size), np.uint8),)
            resized = [transforms.resize_labels(one, size) for one in maps.read(index)]
            if second >= len(resized):
                raise UserError(
                    f"{self.source.name}: clip {self.table.uid[index]}: {len(resized)} maps of its "
                    f"{name}, too few. Delete that folder; the same command makes them again"
                )
            return (np.stack(resized),)

        return self._kept((name, maps, index), make)[0][second]

    def _tokens(self, index: int, seconds: Sequence[int], annotated: np.ndarray):
        # Not through the cache: a frame's tokens are as large as the frame itself, which they would
        # keep out of it, and reading them takes much less than decoding that.
        tokens = np.zeros((len(seconds), *self.beside.visual_tokens.shape), np.float16)
        if annotated.any():
            tokens[annotated] = self.beside.visual_tokens.read(index)[np.array(seconds)[annotated]]
        return tokens

    def _heard(self, clip: "_Once", index: int, seconds: Sequence[int], heard: Heard):
        """(windows of all frames; sounds, sounds_known of the seconds)."""
        num_frames = int(self.table.num_frames[index])
        if heard.kind in ("silence", "noise"):
            if heard.kind == "silence":
                windows = log_mel.silent_windows(num_frames)
            else:
                rng = np.random.default_rng(heard.seed)
                windows = log_mel.noise_windows(num_frames, rng, heard.level)
            none = np.zeros((len(seconds), len(self.spec.sound_names)), np.float32)
            return windows, none, np.ones(len(seconds), bool)
        if heard.lender is not None:
            clip, index = self._clip(heard.lender), heard.lender
        return self._windows(clip, index, num_frames), *self._sounds(clip, index, seconds)

    def _windows(
        self, clip: "_Once", index: int, num_frames: int
    ) -> Float[np.ndarray, "num_frames 96 64"]:
        def make():
            return (log_mel.log_mel_windows(clip.value.waveform),)

        windows = self._kept(("log_mel", index), make)[0]
        return log_mel.windows_for_frames(windows, num_frames, self.spec.short_audio)

    def _sounds(self, clip: "_Once", index: int, seconds: Sequence[int]):
        """(multi-hot (n, S), known (n,)) of a clip's seconds, its last one beyond its end."""
        spec = self.spec
        if spec.sounds_from == "category":
            which, known = sounds.category_sounds(self.table.category[index], spec.sound_names)
            return np.tile(which, (len(seconds), 1)), np.full(len(seconds), known)
        which = np.zeros((len(seconds), len(spec.sound_names)), np.float32)
        known = np.zeros(len(seconds), bool)
        for row, second in enumerate(seconds):
            second = min(second, int(self.table.num_frames[index]) - 1)
            if second < self.table.num_annotated[index]:
                which[row], known[row] = self._label(clip, index, second)[1], True
        return which, known


class _Once:
    """A clip that is read on first use, if at all (a cache may hold all that is needed)."""

    def __init__(self, source: ClipSource, index: int, uid: str):
        self._source, self._index, self._uid = source, index, uid

    @functools.cached_property
    def value(self) -> Clip:
        clip = self._source[self._index]
        if clip.uid != self._uid:
            raise UserError(
                f"{clip.where}: clip {clip.uid} where {self._uid} was; its files were exchanged. "
                "Copy the data set again, or delete it and prepare it again"
            )
        return clip


def _further_map(clip: Clip, name: str, second: int) -> UInt8[np.ndarray, "h w"]:
    if name not in clip.maps:
        raise UserError(
            f"{clip.where}: clip {clip.uid} has no {name} maps, as only the built-in benchmark has"
        )
    encoded = clip.maps[name][second]
    return transforms.decode_labels(encoded, where=_where(clip, second, f"{name} map"))


def _where(clip: Clip, second: int, what: str) -> str:
    return f"{clip.where}: clip {clip.uid}, {what} {second}"
