"""The masks that stage 1 predicts for stage 2: predicted once, kept beside the data."""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from ml_collections import ConfigDict
from tqdm import tqdm

from ssp_jax import preemption
from ssp_jax.batch import AVBatch
from ssp_jax.checksums import digest_of
from ssp_jax.data.mask_store import MaskStore, open_store
from ssp_jax.errors import UserError
from ssp_jax.processes import gather_rows, in_turn, is_first
from ssp_jax.sharding import all_rows
from ssp_jax.stage import Stage

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass
class Stage1Masks:
    """Soft masks of a trained binary stage, for any data set of the run (method 3, 3.6).

    A pixel's value is p(sounding) / (p(sounding) + p(background)) of the segmentation maps; above
    one half it is what AAVS stores as a binary mask.

    Attributes:
      stage, params: the trained stage.
      folder: masks are kept below it, by model and data, so that none is taken for another's.
      size: side of the masks, pixels.
    """

    stage: Stage
    params: dict
    folder: Path
    size: int

    @functools.cached_property
    def model_id(self) -> str:
        """Changes with any bit of the parameters."""
        return digest_of(self.params)

    def store(self, words: str, sounds: str) -> MaskStore:
        """The masks of 'benchmark:split' words under `sounds` (see `eval_batches`), complete.

        Predicts those that are missing; what was written before an interruption is kept.
        """
        source = self.stage.data.source(words)
        facts = {
            "data": source.fingerprint(),
            "words": words,
            "sounds": sounds,
            "seed": self.stage.config.seed if sounds in ("noise", "foreign") else None,
            "frame_size": self.stage.spec.frame_size,
            "size": self.size,
            "model": self.model_id,
            "reads": self.stage.reads(),
            "trained_in": str(self.stage.folder),
        }
        if sounds == "foreign":
            facts["off_screen"] = True  # unlike those of earlier versions
        known = {key: value for key, value in facts.items() if key != "trained_in"}
        digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:8]
        name = f"{words.replace(':', '-')}-{sounds}"[:100] + f"-{digest}"
        store = in_turn(lambda: open_store(self.folder / name, facts, len(source), self.size))
        if _begins_at(store) < len(source):
            with contextlib.ExitStack() as stack:
                in_turn(lambda: is_first() and stack.enter_context(store.lock()))
                self._add(store, words, sounds)
        in_turn(lambda: _check_seen(store, len(source)))
        return store

    def _add(self, store: MaskStore, words: str, sounds: str) -> None:
        first, count = _begins_at(store), len(self.stage.data.source(words))
        if first == count:  # another run, which had the lock, has written them
            return
        _LOG.info(
            "%s: masks of %s (%s sounds), clips %d to %d, into %s",
            *(self.stage.name, words, sounds, first, count - 1, store.folder),
        )
        clips = self._predict(words, sounds, first)
        if is_first():
            store.write(clips)
        else:
            collections.deque(clips, maxlen=0)

    def _predict(self, words: str, sounds: str, first: int) -> Iterator[UInt8[np.ndarray, "n s s"]]:
        """Masks of one clip after the other, from clip number `first` on."""
        counts = self.stage.data.source(words).table.num_annotated
        starts = np.concatenate([[0], np.cumsum(counts)])
        predict, pending, clip = self._soft_masks(), [], first
        # A training may leave clips out, a score never.
        trains = words in self.stage.words["train"].values()
        blank = trains and self.stage.config.data.max_bad_clips > 0
        with self.stage.batches(words, sounds, blank_bad_clips=blank) as batches:
            batches.set_state({"next_batch": int(starts[first]) // self.stage.stage.batch_size})
            todo = range(batches.get_state()["next_batch"], len(batches))
            description, silent = f"masks of {words}", not is_first()
            bar = tqdm(todo, desc=description, unit="batch", mininterval=1.0, disable=silent)
            for _ in preemption.until_asked(bar):
                placed = self.stage.put(next(batches))
                soft = predict(self.params, placed)
                soft, clips, seconds = all_rows(placed, (soft, placed.clip, placed.second))
                order = np.lexsort((seconds, clips))  # that of the devices can be another
                # Clips come in order and may straddle batches.
                pending += list(soft[order][clips[order] >= first])
                while clip < len(counts) and len(pending) >= counts[clip]:
                    yield np.stack(pending[: counts[clip]])
                    pending, clip = pending[counts[clip] :], clip + 1

    def _soft_masks(self):
        scores = self.stage.make_predict(self.size)

        def predict(params: dict, batch: AVBatch) -> jax.Array:
            return soft_masks(scores(params, batch))

        return predict


@jax.jit
def soft_masks(scores: Float[Array, "N 2 h w"]) -> UInt8[Array, "N h w"]:
    """Stage 1's class scores as it prompts stage 2, see `Stage1Masks`: 0..255 for 0..1."""
    silent, sounding = scores[:, 0], scores[:, 1]
    share = sounding / jnp.maximum(silent + sounding, 1e-12)
    return jnp.round(255 * share).astype(jnp.uint8)


def masks_folder(config: ConfigDict) -> Path:
    """Return where the masks of a run's first stage are kept."""
    return Path(config.prepared_dir) / "stage1_masks"


def prompt_by(
    first: Stage, params: dict, stage: Stage, uses: Sequence[str] = ("train", "val", "test")
) -> None:
    """Let `stage` be prompted by what `first`, trained to `params`, predicts.

    The masks of its data sets for these `uses` are predicted now, others, and those under other
    sounds, when they are asked for.
    """
    folder = masks_folder(stage.config)
    stage.masks_of = Stage1Masks(first, params, folder, stage.spec.label_size).store
    for words in (word for use in uses for word in stage.words[use].values()):
        stage.masks_of(words, "own")


def _begins_at(store: MaskStore) -> int:
    """Number of the first clip that lacks, as process 0 sees it, which writes."""
    return int(gather_rows({"first": np.array([store.next_clip()])})["first"][0])


def _check_seen(store: MaskStore, num_clips: int) -> None:
    if store.next_clip() < num_clips:
        raise UserError(
            f"{store.folder}: process {jax.process_index()} does not find there what process 0 "
            "wrote. Name a --config.prepared_dir that all of the run's machines share"
        )
