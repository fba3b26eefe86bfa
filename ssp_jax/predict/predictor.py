"""Trained stages as a function from frames with sound to masks with names."""

import dataclasses
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import jax
import numpy as np
from jaxtyping import Float, Shaped, UInt8
from ml_collections import ConfigDict

from ssp_jax.data.log_mel import SAMPLE_RATE
from ssp_jax.mask_prompts import soft_masks
from ssp_jax.places import run_path
from ssp_jax.predict.checkpoint import TrainedStage, stages_of_run, stages_of_weights
from ssp_jax.predict.clips import PlainClip, as_waveform, check_frames, cut
from ssp_jax.predict.inputs import InputMaker
from ssp_jax.prompts.texts import NO_TEXTS, Texts


@dataclasses.dataclass(frozen=True)
class Sounding:
    """One class that sounds in one second.

    Attributes:
      class_index, name: of the class. share: of the frame's pixels.
      box: left, top, right, bottom of all its pixels, the last two beyond them.
      confidence: its share of all classes' scores, mean over its pixels; not calibrated.
    """

    class_index: int
    name: str
    share: float
    box: tuple[int, int, int, int]
    confidence: float


@dataclasses.dataclass(frozen=True)
class SecondPrediction:
    """Of one second: the class of each pixel of its frame (0 background), and what sounds."""

    labels: UInt8[np.ndarray, "H W"]
    sounding: tuple[Sounding, ...]


class Predictor:
    """What sounds where, by a run's trained stages; made by `from_run` or `from_weights`.

    With both stages `avss` names classes, prompted by the masks of `avs`; `avs` alone tells
    sounding pixels from others.

    Attributes:
      class_names: background first.
      stage_name: avss or avs. reads_texts: whether texts make a difference.
    """

    def __init__(self, stages: dict[str, TrainedStage]):
        self._stages = stages
        self.stage_name = list(stages)[-1]
        self._stage, self._params = stages[self.stage_name]
        self.class_names: tuple[str, ...] = self._stage.class_names
        self.reads_texts: bool = any(stage.reads_texts for stage, _ in stages.values())
        self._inputs = InputMaker([stage for stage, _ in stages.values()])
        self._first = None
        if len(stages) > 1:
            first, self._first_params = stages["avs"]
            self._first = first, first.make_predict(self._stage.spec.label_size)

    @classmethod
    def from_run(cls, workdir: str | Path) -> "Predictor":
        """Open a folder that `python -m ssp_jax.main` has trained into.

        Raises:
          UserError: see `stages_of_run`.
        """
        return cls(stages_of_run(run_path(workdir)))

    @classmethod
    def from_weights(cls, config: ConfigDict, folders: Sequence[str | Path]) -> "Predictor":
        """Open weight folders of AAVS (one stage or both) and VGGish; `config` is of their model.

        Raises:
          UserError: see `stages_of_weights`.
        """
        return cls(stages_of_weights(config, [run_path(folder) for folder in folders]))

    def __call__(
        self,
        frames: UInt8[np.ndarray, "T H W 3"],
        sound: Shaped[np.ndarray, " n"] | Shaped[np.ndarray, "n channels"] | None = None,
        rate: int = 16_000,
        texts: Texts = NO_TEXTS,
    ) -> list[SecondPrediction]:
        """Segment T seconds.

        Args:
          frames: RGB, one a second, any size.
          sound: from the first second's beginning, floats in -1..1 or int16; None is silence. A
            warning says where it and the frames differ by a second or more.
          rate: its samples a second.
          texts: what is seen, and what may sound (method 4.4); for a model that reads them.

        Raises:
          UserError: arrays of another kind.
        """
        frames = np.asarray(frames)
        check_frames(frames)
        waveform = np.zeros(0, np.int16)
        if sound is not None:
            waveform = as_waveform(sound, rate)
            length = len(waveform) / SAMPLE_RATE
            if abs(length - len(frames)) >= 1:
                warnings.warn(
                    f"{len(frames)} frames, one a second, and {length:.1f} s of sound (at {rate} "
                    "Hz); what lacks is silent, what is over is not heard. Is there one frame a "
                    "second, and is the rate that of the sound?",
                    stacklevel=2,
                )
        return list(self.predict(cut(frames, waveform), texts))

    def predict(
        self, clips: Iterable[PlainClip], texts: Texts = NO_TEXTS
    ) -> Iterator[SecondPrediction]:
        """The seconds of the clips, one after the other, with no more than one clip in memory.

        Raises:
          UserError: see `InputMaker.read`.
        """
        for clip in clips:
            for frame, scores in zip(clip.frames, self.scores(clip, texts), strict=True):
                yield self._named(scores, frame.shape[:2])

    def scores(self, clip: PlainClip, texts: Texts = NO_TEXTS) -> Float[np.ndarray, "T K s s"]:
        """Class scores of a clip's frames at the scored size, as an evaluation has them."""
        inputs, masks, count = self._inputs.read(clip, texts), None, len(clip.frames)
        if self._first:
            first, predict = self._first
            batch = self._inputs.batch(first, inputs, None)
            masks = soft_masks(predict(self._first_params, first.put(batch)))
            masks = jax.device_get(masks)[:count]
        batch = self._inputs.batch(self._stage, inputs, masks)
        return jax.device_get(self._stage.predict(self._params, self._stage.put(batch)))[:count]

    def _named(
        self, scores: Float[np.ndarray, "K s s"], shape: tuple[int, int]
    ) -> SecondPrediction:
        labels = enlarged(scores, shape)
        coarse = scores.argmax(axis=0)
        sounding = []
        for index in np.unique(labels[labels > 0]).tolist():
            rows, columns = (np.flatnonzero((labels == index).any(axis=axis)) for axis in (1, 0))
            inside = coarse == index
            own, total = scores[index][inside], scores[:, inside].sum(axis=0)
            sounding.append(
                Sounding(
                    index,
                    self.class_names[index],
                    float((labels == index).mean()),
                    (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1),
                    float((own / np.maximum(total, 1e-12)).mean()),
                )
            )
        return SecondPrediction(labels, tuple(sounding))


def enlarged(
    scores: Float[np.ndarray, "K s s"], shape: tuple[int, int]
) -> UInt8[np.ndarray, "H W"]:
    """Arg-max of the scores at another size (bilinear), of the classes that win some pixel here."""
    labels, highest = np.zeros(shape, np.uint8), np.full(shape, -np.inf, np.float32)
    for index in np.unique(scores.argmax(axis=0)).tolist():
        plane = cv2.resize(scores[index], shape[::-1], interpolation=cv2.INTER_LINEAR)
        higher = plane > highest
        labels[higher], highest[higher] = index, plane[higher]
    return labels
