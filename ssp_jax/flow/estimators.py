"""Estimators of optical flow between two frames, by name."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from ssp_jax.errors import UserError
from ssp_jax.flow.mask import Camera, camera_motion
from tfds_builders.facts import sha256_of

# From the first to the second frame, x then y, in pixels of the frames; the field may be coarser
# than they are.
PairFlow = Callable[
    [UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W 3"]], Float[np.ndarray, "h w 2"]
]
NAMES = ("dis", "perceiver")
_PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}


@dataclasses.dataclass(frozen=True)
class Estimator:
    """An estimator and what its flows depend on.

    Attributes:
      name: of NAMES. settings: whatever changes its flows, as JSON values. threads: how many may
        use it at once, None for any number. make: builds it; takes long where there are weights.
    """

    name: str
    settings: dict[str, Any]
    threads: int | None
    make: Callable[[], PairFlow]


def make_estimator(name: str, weights: str | Path | None = None) -> Estimator:
    """The estimator of a name; reads no weights yet.

    Args:
      name: dis, or perceiver (Perceiver IO, the paper's).
      weights: folder that `python -m ssp_jax.weights import` made, for perceiver.

    Raises:
      UserError: an unknown name, weights missing or of no use.
    """
    if name not in NAMES:
        raise UserError(f"flow estimator: expected {' or '.join(NAMES)}, got {name!r}")
    if name == "dis":
        if weights is not None:
            raise UserError("flow estimator dis: has no weights; leave --weights out")
        dis = DisFlow()
        return Estimator(name, dataclasses.asdict(dis), None, lambda: dis)
    how = (
        "python -m ssp_jax.weights import --source=perceiver_flow, of the files of "
        "deepmind/optical-flow-perceiver"
    )
    if weights is None:
        raise UserError(
            "flow estimator perceiver: needs --weights=DIR, in a run --config.flow.weights=DIR, "
            f"made by {how}"
        )
    file = Path(weights) / "weights.safetensors"
    if not file.is_file():
        raise UserError(f"{weights}: no weight folder (no {file.name}); expected one made by {how}")
    from ssp_jax.flow import perceiver  # needs JAX; dis does not

    perceiver.check_perceiver_weights(Path(weights))

    def make() -> PairFlow:
        return perceiver.make_perceiver_flow(Path(weights))

    return Estimator(name, {"weights": sha256_of(file)}, 1, make)


@dataclasses.dataclass(frozen=True)
class DisFlow:
    """Dense inverse search (Kroeger et al., ECCV 2016) by OpenCV, set up for frames 1 s apart.

    A pixel keeps its own flow only where that explains the second frame better than the camera's
    motion does [ours]: across a second DIS's own fields spill far over the borders of what moves.
    `benchmarks/README.md` (Flow mask) has what each choice is worth.

    Attributes:
      preset: OpenCV's, for patches and iterations. Always to the finest scale, without mean
        normalisation (of patches) and without variational refinement.
      side: the frames' longer side is brought to so many pixels first.
      camera: `camera_motion`; none keeps all flow.
      tolerance: by how many grey levels of 255, mean of a neighbourhood and of the colours, the
        own flow must be better.
    """

    preset: Literal["ultrafast", "fast", "medium"] = "medium"
    side: int = 128
    camera: Camera = "affine"
    tolerance: float = 6.0

    def __call__(
        self, first: UInt8[np.ndarray, "H W 3"], second: UInt8[np.ndarray, "H W 3"]
    ) -> Float[np.ndarray, "h w 2"]:
        """Flow at the working size, in pixels of the given frames."""
        scale = self.side / max(first.shape[:2])
        size = tuple(max(16, round(scale * n)) for n in first.shape[1::-1])  # the least DIS takes
        first, second = (_resized(frame, size) for frame in (first, second))
        # One each call: the object is not for several threads.
        dis = cv2.DISOpticalFlow.create(_PRESETS[self.preset])
        dis.setFinestScale(0)
        dis.setUseMeanNormalization(False)
        dis.setVariationalRefinementIterations(0)
        flow = dis.calc(*(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in (first, second)), None)
        if self.camera != "none":
            motion = camera_motion(flow / min(size), self.camera) * min(size)
            own, common = (_unexplained(first, second, f) for f in (flow, motion))
            flow = np.where((common > own + self.tolerance)[..., None], flow, motion)
        return (flow / scale).astype(np.float32)


def _resized(frame: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]):
    """To (width, height)."""
    smaller = size[0] < frame.shape[1]
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


def _unexplained(first, second, flow) -> Float[np.ndarray, "h w"]:
    """Grey levels by which the first frame differs from the second, carried back by the flow."""
    rows, columns = np.mgrid[: flow.shape[0], : flow.shape[1]].astype(np.float32)
    x, y = columns + flow[..., 0], rows + flow[..., 1]
    carried = cv2.remap(second, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return cv2.blur(cv2.absdiff(first, carried).astype(np.float32).mean(axis=-1), (3, 3))
