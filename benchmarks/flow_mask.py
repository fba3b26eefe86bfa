"""How well flow masks find what moves in the built-in benchmark, whose truth is known.

    python -m benchmarks.flow_mask

IoU of the flow mask (method 4.1) with the pixels of objects that move against the scene, all pixels
of a set counted together, at the stored flow's resolution. Parameters are chosen on the validation
clips and confirmed on the test clips. Generates the benchmark under --prepared_dir, unless it is
there.
"""

import concurrent.futures
import dataclasses
import io
import itertools
import os
import time
from collections.abc import Iterable

import cv2
import numpy as np
from absl import app, flags
from PIL import Image
from tqdm import tqdm

from ssp_jax.data.sources import Clip, ClipSource
from ssp_jax.data.transforms import decode_labels
from ssp_jax.flow.estimators import DisFlow, PairFlow
from ssp_jax.flow.mask import CHOICES, camera_motion, flow_masks
from ssp_jax.flow.store import clip_flows
from ssp_jax.places import define_path
from tfds_builders.avs_builtin import prepare_builtin

_PREPARED = define_path("prepared_dir", "prepared", "where prepared data sets go")
_FRAMES = flags.DEFINE_integer("frame_size", 96, "side of the stored frames", 16)
_SIZE = flags.DEFINE_integer("size", 112, "side of the stored flow", 16)

_FLOORS = (0.005, 0.01, 0.015, 0.02, 0.03, 0.045, 0.06)
_PARAMETERS = {
    "nonzero": [{}],
    "otsu": [{"floor": floor} for floor in _FLOORS],
    "mad": [{"floor": f, "deviations": k} for f in _FLOORS for k in (1.0, 3.0, 8.0)],
}
_PAPER = {"threshold": "nonzero", "camera": "none", "smoothing": "mean", "despeckle": 1}

Flows = list[np.ndarray]  # of a set's clips


@dataclasses.dataclass(frozen=True)
class Plain:
    """OpenCV's DIS as it comes, at the frames' own size."""

    preset: int

    def __call__(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Flow in pixels."""
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second)]
        return cv2.DISOpticalFlow.create(self.preset).calc(*grey, None)


@dataclasses.dataclass(frozen=True)
class Zoomed:
    """A clip filmed by a camera that zooms in and rolls as well, so much a second."""

    zoom: float = 0.03
    degrees: float = 1.5

    def image(self, image: np.ndarray, second: int, interpolation: int) -> np.ndarray:
        """The image as the camera sees it in that second."""
        height, width = image.shape[:2]
        centre = (width - 1) / 2, (height - 1) / 2
        turn = cv2.getRotationMatrix2D(centre, self.degrees * second, 1 + self.zoom * second)
        border = cv2.BORDER_REFLECT if image.ndim == 3 else cv2.BORDER_CONSTANT
        return cv2.warpAffine(image, turn, (width, height), flags=interpolation, borderMode=border)

    def clip(self, clip: Clip) -> Clip:
        """The whole clip."""

        def encoded(array: np.ndarray) -> bytes:
            buffer = io.BytesIO()
            Image.fromarray(array).save(buffer, "png", compress_level=1)
            return buffer.getvalue()

        frames = [np.asarray(Image.open(io.BytesIO(b)).convert("RGB")) for b in clip.frames]
        frames = [self.image(f, t, cv2.INTER_LINEAR) for t, f in enumerate(frames)]
        maps = [decode_labels(b, where=clip.uid) for b in clip.maps["moving"]]
        maps = [self.image(m, t, cv2.INTER_NEAREST) for t, m in enumerate(maps)]
        return dataclasses.replace(
            clip, frames=tuple(map(encoded, frames)), maps={"moving": tuple(map(encoded, maps))}
        )


def _flows(clips: list[Clip], estimate: PairFlow, what: str) -> Flows:
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as executor:
        done = executor.map(lambda clip: clip_flows(clip, estimate, _SIZE.value), clips)
        return list(tqdm(done, desc=what, total=len(clips), leave=False))


def _milliseconds(clips: list[Clip], estimate: PairFlow) -> float:
    """A flow, in one thread."""
    frames = [
        [np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")) for encoded in clip.frames]
        for clip in clips
    ]
    start = time.perf_counter()
    flows = [estimate(*pair) for clip in frames for pair in itertools.pairwise(clip)]
    return 1e3 * (time.perf_counter() - start) / len(flows)


def _moving(clips: list[Clip], flows: Flows) -> list[np.ndarray]:
    """Return where objects move, per frame at the size of the clip's flow."""
    return [
        np.stack(
            [
                cv2.resize(
                    decode_labels(encoded, where=clip.uid),
                    flow.shape[2:0:-1],
                    interpolation=cv2.INTER_NEAREST,
                )
                for encoded in clip.maps["moving"]
            ]
        )
        > 0
        for clip, flow in zip(clips, flows, strict=True)
    ]


def _iou(masks: Iterable[np.ndarray], truth: list[np.ndarray]) -> float:
    hits = union = 0
    for mask, moving in zip(masks, truth, strict=True):
        hits += np.count_nonzero((mask > 0) & moving)
        union += np.count_nonzero((mask > 0) | moving)
    return 100 * hits / union


def _perfect(truth: list[np.ndarray], smoothing: str) -> Iterable[np.ndarray]:
    """Masks of a flow that knows what moves in the first of its two frames."""
    for moving in truth:
        flows = np.repeat(moving[:-1, ..., None], 2, axis=-1).astype(np.float32)
        yield flow_masks(flows, camera="none", threshold="otsu", smoothing=smoothing, despeckle=1)


def _without(flows: Flows, camera: str) -> Flows:
    """Subtracted once for all thresholds; a mask of these with camera="none" is the same."""
    return [np.stack([f - camera_motion(f, camera) for f in flow]) for flow in flows]


def _threshold_table(name: str, val: Flows, test: Flows, truth: tuple[list, list]) -> None:
    print(f"\n{name}:\n")
    print("| camera | between frames |" + "".join(f" {t} |" for t in _PARAMETERS))
    print("|---|---|" + "---|" * len(_PARAMETERS))
    for camera in CHOICES["camera"]:
        sets = [_without(flows, camera) for flows in (val, test)]
        for smoothing in CHOICES["smoothing"]:
            cells = []
            for threshold, choices in _PARAMETERS.items():
                common = {"camera": "none", "threshold": threshold, "smoothing": smoothing}

                def score(part: int, chosen: dict, common=common, sets=sets) -> float:
                    masks = (flow_masks(flow, **common, **chosen) for flow in sets[part])
                    return _iou(masks, truth[part])

                best = max(choices, key=lambda chosen, score=score: score(0, chosen))
                values = ", ".join(f"{key} {value:g}" for key, value in best.items())
                cells.append(f" {score(0, best):.1f} / {score(1, best):.1f} {values} |")
            print(f"| {camera} | {smoothing} |{''.join(cells)}", flush=True)


def main(argv: list[str]) -> None:
    """Prints the tables of benchmarks/README.md, Flow mask."""
    del argv
    cv2.setNumThreads(1)
    folder = prepare_builtin(_PREPARED.value, frame_size=_FRAMES.value)
    val, test = ([*_source(folder, split)] for split in ("val", "test"))
    plain = {n: Plain(getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{n}")) for n in ("MEDIUM", "FAST")}

    truth = None
    for name, estimate in (("DIS of this project", DisFlow()), ("OpenCV's DIS", plain["MEDIUM"])):
        flows = [_flows(clips, estimate, name) for clips in (val, test)]
        truth = truth or tuple(map(_moving, (val, test), flows))
        _threshold_table(name, *flows, truth)
        for kind, choices in (("the paper's mask", _PAPER), ("the default mask", {})):
            masks = [[flow_masks(f, **choices) for f in part] for part in flows]
            print(f"\n{kind}: {_iou(masks[0], truth[0]):.1f} / {_iou(masks[1], truth[1]):.1f}")

    for smoothing in CHOICES["smoothing"]:
        print(f"\na perfect flow, {smoothing} between frames: ", end="")
        print(" / ".join(f"{_iou(_perfect(part, smoothing), part):.1f}" for part in truth))

    print("\n| DIS | val | test | ms a flow |\n|---|---|---|---|")
    rows = {f"OpenCV's, {name.lower()}": estimate for name, estimate in plain.items()}
    for change in (
        *({"preset": preset} for preset in ("medium", "fast", "ultrafast")),
        {"camera": "none"},
        *({"side": side} for side in (96, 160, 192)),
        *({"tolerance": tolerance} for tolerance in (3.0, 12.0)),
    ):
        rows["this project's, " + " ".join(f"{k} {v}" for k, v in change.items())] = DisFlow(
            **change
        )
    for name, estimate in rows.items():
        scores = [
            _iou((flow_masks(flow) for flow in _flows(clips, estimate, name)), moving)
            for clips, moving in zip((val, test), truth, strict=True)
        ]
        took = _milliseconds(val[:20], estimate)
        print(f"| {name} | {scores[0]:.1f} | {scores[1]:.1f} | {took:.1f} |", flush=True)

    print("\n| camera of estimator and mask | test | test, zoomed and rolled |\n|---|---|---|")
    zoomed = [Zoomed().clip(clip) for clip in test]
    for camera in CHOICES["camera"]:
        scores = []
        for clips in (test, zoomed):
            flows = _flows(clips, DisFlow(camera=camera), camera)
            masks = (flow_masks(flow, camera=camera) for flow in flows)
            scores.append(_iou(masks, _moving(clips, flows)))
        print(f"| {camera} | {scores[0]:.1f} | {scores[1]:.1f} |", flush=True)


def _source(folder, split: str) -> Iterable[Clip]:
    source = ClipSource([(folder, split)])
    return (source[index] for index in range(len(source)))


if __name__ == "__main__":
    app.run(main)
