"""What the batches of training and evaluation hold.

Every batch is computed from its number alone (`order`), so the state of an iterator is a count,
resuming is exact, and neither processes nor workers change what a batch holds.
"""

import dataclasses
import sys
from collections.abc import Sequence

import numpy as np

from ssp_jax.data.bad_clips import Replacer, Tally
from ssp_jax.data.batches import Batches
from ssp_jax.data.beside import Beside
from ssp_jax.data.frame_cache import FrameCache
from ssp_jax.data.order import EvalOrder, TrainOrder, Visit
from ssp_jax.data.reader import FrameReader, Heard, ReadSpec, Reference, Slots
from ssp_jax.data.sounds import NEGATIVE_SOUNDS, Sounds, foreign_clips, lender_for, table_sounds
from ssp_jax.data.sources import ClipSource
from ssp_jax.data.transforms import Augment
from ssp_jax.errors import UserError

# Streams of random numbers, apart from those of `order`.
_GEOMETRY, _COLOUR, _SOUND, _REFERENCE, _NOISE = 2, 3, 4, 5, 6
_NOISE_LEVELS = -2.0, 0.0  # in training, powers of ten: 40 dB below full scale, full scale


def frames_per_epoch(
    source: ClipSource, *, annotated_only: bool = True, frames_per_clip: int | None = None
) -> int:
    """Frame slots of one epoch of `train_batches`: steps = epochs * this / batch_size."""
    return TrainOrder(_counts(source, annotated_only), 0, frames_per_clip).epoch_size


def train_batches(
    source: ClipSource,
    spec: ReadSpec,
    *,
    batch_size: int,
    seed: int,
    augment: Augment | None = None,
    annotated_only: bool = True,
    frames_per_clip: int | None = None,
    beside: Beside | None = None,
    references: tuple[float, float] = (1.0, 0.0),
    max_bad_clips: int = 0,
    num_workers: int = 0,
    num_threads: int = 2,
    cache: FrameCache | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """Endless training batches of N = batch_size / process_count frame slots, all filled.

    The network works frame by frame, so frames of consecutive clips of a shuffled epoch are packed
    without gaps; S4's training clips give their single annotated frame once. Epochs follow each
    other without a gap and are shuffled anew. The batches of all processes together are the same
    for any number of processes, workers and threads.

    Args:
      batch_size: slots a step over all processes.
      annotated_only: only frames with labels; else also the others, with annotated = False.
      frames_per_clip: so many random frames of a clip a visit (less correlated batches), or all.
      augment: see `Augment`. A clip whose sound is replaced is labelled background.
      beside: flow masks, texts and what stage 1 predicted, of the same source; with masks of
        foreign sounds, these sounds are the ones that `eval_batches` gives by the same seed.
      references: probabilities that a visit's reference (`ReadSpec.reference`) is the ground truth
        or a prediction: stage 1's where `beside` has its masks, else the network's own; else it is
        empty.
      max_bad_clips: so many clips that cannot be read are left out, see `bad_clips`; the log names
        them, and the iterator's state has them.
      num_workers: processes that decode; 0: `num_threads` threads in this one.
      cache: where decoded frames are kept; used without workers only. May be shared with others.

    Returns:
      AVBatch of NumPy arrays, without end.

    Raises:
      UserError: batch_size is not divisible by the processes, the source holds no usable frame;
        max_bad_clips is negative; from the iterator: one clip more than that cannot be read.
    """
    if max_bad_clips < 0:
        raise UserError(f"max_bad_clips: expected 0 or more, got {max_bad_clips}")
    order = TrainOrder(_counts(source, annotated_only), seed, frames_per_clip)
    reader = FrameReader(source, spec, cache if num_workers == 0 else None, beside)
    share = _Share(batch_size, process_index, process_count)
    make = _TrainBatch(reader, order, share, augment or Augment(), references, seed)
    make.replacer = Replacer(make.read, _counts(source, annotated_only), seed, max_bad_clips)
    return Batches(make, sys.maxsize, num_workers, num_threads, Tally(max_bad_clips))


def eval_batches(
    source: ClipSource,
    spec: ReadSpec,
    *,
    batch_size: int,
    sounds: Sounds = "own",
    beside: Beside | None = None,
    reference: Reference = "empty",
    seed: int = 0,
    annotated_only: bool = True,
    clips: Sequence[int] | None = None,
    blank_bad_clips: bool = False,
    num_workers: int = 0,
    num_threads: int = 2,
    cache: FrameCache | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """Every clip once and in order, all annotated frames; slots left over have valid = False.

    `AVBatch.clip` is the index in the source (its table names it). A clip may straddle batches.
    All processes get the same number of batches. See `train_batches` for the other arguments.

    Args:
      sounds: own; silence; noise, white and of full scale; foreign: each clip hears another clip
        of the source, where possible of classes that it does not show, a fixed permutation by
        `seed`. Labels are always the clip's own.
      beside: flow masks, texts and what stage 1 predicted, of the same source (and sounds).
      reference: of every slot that has one, see `FrameReader.read`; under another sound the truth
        is that nothing sounds.
      clips: only these, in the source's order.
      blank_bad_clips: a clip that cannot be read has black frames and valid = False; for what is
        predicted of training clips, never for a score.

    Raises:
      UserError: an unknown choice of sounds, foreign sounds with fewer than two clips, a batch size
        not divisible by the processes; from the iterator: an image cannot be decoded.
    """
    if sounds not in ("own", *NEGATIVE_SOUNDS):
        raise UserError(
            f"sounds: expected own or one of {', '.join(NEGATIVE_SOUNDS)}, got {sounds!r}"
        )
    counts = _counts(source, annotated_only)
    if clips is not None:
        counts = np.where(np.isin(np.arange(len(counts)), clips), counts, 0)
    order = EvalOrder(counts)
    reader = FrameReader(source, spec, cache if num_workers == 0 else None, beside)
    lenders = _foreign_clips(reader, seed) if sounds == "foreign" else None
    if sounds != "own" and reference == "truth":
        reference = "empty"
    share = _Share(batch_size, process_index, process_count)
    make = _EvalBatch(reader, order, share, sounds, lenders, reference, seed, blank_bad_clips)
    return Batches(make, -(-order.epoch_size // batch_size), num_workers, num_threads)


def _foreign_clips(reader: FrameReader, seed: int) -> np.ndarray:
    """`foreign_clips` of a source, off screen where the data set knows what is visible."""
    count = len(reader.source)
    if count < 2:
        raise UserError(f"{reader.source.name}: foreign sounds need two clips, got {count}")
    classes, _ = table_sounds(reader.table.category, reader.spec.sound_names)
    visible = [reader.visible(clip) for clip in range(count)]
    return foreign_clips(classes, seed, None if visible[0] is None else np.stack(visible))


def _counts(source: ClipSource, annotated_only: bool) -> np.ndarray:
    return source.table.num_annotated if annotated_only else source.table.num_frames


@dataclasses.dataclass(frozen=True)
class _Share:
    """The slots of a global batch that belong to this process."""

    batch_size: int
    index: int
    count: int

    def __post_init__(self):
        if self.batch_size < 1 or self.batch_size % self.count:
            raise UserError(
                f"batch_size: {self.batch_size} frames a step cannot be shared equally by"
                f" {self.count} processes; choose a multiple of {self.count}"
            )

    @property
    def size(self) -> int:
        return self.batch_size // self.count

    def start(self, batch: int) -> int:
        return batch * self.batch_size + self.index * self.size


def _pack(reader: FrameReader, size: int, parts: Sequence[Slots]) -> Slots:
    slots, filled = reader.empty(size), 0
    for part in parts:
        count = len(part["valid"])
        for name, array in slots.items():
            array[filled : filled + count] = part[name]
        filled += count
    return slots


class _TrainBatch:
    """Batch number -> slots, bad clips; `replacer` reads by `read`."""

    replacer: Replacer

    def __init__(self, reader, order: TrainOrder, share: _Share, augment, references, seed: int):
        self._reader, self._order, self._share = reader, order, share
        self._augment, self._references, self._seed = augment, references, seed
        self._classes = self._known = self._lenders = None
        if augment.foreign_sound > 0:
            self._classes, self._known = table_sounds(
                reader.table.category, reader.spec.sound_names
            )
            if "foreign" in (reader.beside.masks or {}):
                self._lenders = _foreign_clips(reader, seed)

    def __call__(self, number: int) -> tuple[Slots, dict[int, str]]:
        start = self._share.start(number)
        parts, bad = self.replacer(self._order.visits(start, start + self._share.size))
        return _pack(self._reader, self._share.size, parts), bad

    def read(self, visit: Visit) -> Slots:
        """Slots of a visit, varied as its epoch and clip say."""
        augment = self._augment
        heard = self._heard(visit)
        return self._reader.read(
            visit.clip,
            visit.seconds,
            heard=heard,
            geometry=augment.geometry(self._rng(visit, _GEOMETRY)),
            colour=augment.colour(self._rng(visit, _COLOUR)),
            # What is visible stays visible whatever is heard.
            unlabelled=heard.kind != "own" and self._reader.spec.labels_from == "labels",
            reference=self._reference(visit),
        )

    def _reference(self, visit: Visit) -> Reference:
        truth, predicted = self._references
        drawn = self._rng(visit, _REFERENCE).random()
        if drawn < truth:
            return "truth"
        if drawn >= truth + predicted:
            return "empty"
        return "own" if self._reader.beside.masks is None else "stage1"

    def _rng(self, visit: Visit, stream: int) -> np.random.Generator:
        # By epoch and clip, not by batch: a clip that straddles two batches is varied alike.
        return np.random.default_rng([self._seed, visit.epoch, stream, visit.clip])

    def _heard(self, visit: Visit) -> Heard:
        rng, negatives = self._rng(visit, _SOUND), self._augment.negatives
        place = np.searchsorted(np.cumsum([*negatives.values()]), rng.random(), side="right")
        drawn = [*negatives, "own"][place]
        if drawn == "silence":
            return Heard("silence")
        if drawn == "noise":
            seed = (self._seed, visit.epoch, _NOISE, visit.clip)
            return Heard("noise", seed=seed, level=10 ** rng.uniform(*_NOISE_LEVELS))
        lender = self._lender(visit.clip, rng) if drawn == "foreign" else None
        return Heard() if lender is None else Heard("foreign", lender)

    def _lender(self, clip: int, rng: np.random.Generator) -> int | None:
        """A clip whose sound is off screen, or None where that is not known of any."""
        visible = self._reader.visible(clip)
        if self._lenders is None:
            return lender_for(clip, self._classes, self._known, rng, visible)
        lender = int(self._lenders[clip])  # that stage 1 heard
        shown = self._classes[clip] if visible is None else visible
        known = self._known[clip] and self._known[lender]
        return lender if known and not (self._classes[lender] @ shown) else None


class _EvalBatch:
    """Batch number -> slots, the last ones padded, and no bad clips."""

    def __init__(
        self,
        reader,
        order: EvalOrder,
        share: _Share,
        sounds: Sounds,
        lenders,
        reference,
        seed: int,
        blank: bool,
    ):
        self._reader, self._order, self._share, self._blank = reader, order, share, blank
        self._sounds, self._lenders = sounds, lenders
        self._reference, self._seed = reference, seed

    def __call__(self, number: int) -> tuple[Slots, dict[int, str]]:
        start = self._share.start(number)
        visits = self._order.visits(start, start + self._share.size)
        return _pack(self._reader, self._share.size, list(map(self._read, visits))), {}

    def _read(self, visit: Visit) -> Slots:
        heard = self._heard(visit.clip)
        try:
            return self._reader.read(
                visit.clip, visit.seconds, heard=heard, reference=self._reference
            )
        except UserError:
            if not self._blank:
                raise
            slots = self._reader.empty(len(visit.seconds))
            slots["clip"][:], slots["second"][:] = visit.clip, visit.seconds
            return slots

    def _heard(self, clip: int) -> Heard:
        if self._sounds == "foreign":
            return Heard("foreign", int(self._lenders[clip]))
        return Heard(self._sounds, seed=(self._seed, _NOISE, clip))
