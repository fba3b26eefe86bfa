"""The network's numbers on an accelerator, against those of the CPU in the same process."""

import dataclasses
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from benchmarks.accelerator_report import Findings
from benchmarks.accelerator_setting import TINY, TINY_FRAME_SIZE, Setting, computed_on
from benchmarks.full_size import (
    FRAME_SIZE,
    LABEL_SIZE,
    full_size_config,
    full_size_loss,
    random_params,
    stage_batch,
)
from ssp_jax.optim import trained_names
from ssp_jax.phases import plan_phases
from ssp_jax.train_state import replace_leaves, split_trained
from ssp_jax.train_step import Loss, class_scores, multiplied_in

_STAGE, _FRAMES = "avss", 2
# Every layer as wide as in Swin-B, equal ones fewer: four programs have to compile.
FEWER = {"depths": (2, 2, 2, 2), "encoder_layers": 2, "decoder_layers": 3, "bert_layers": 2}


@dataclasses.dataclass(frozen=True)
class Limits:
    """The most by which an accelerator may differ from the CPU's float32.

    Attributes:
      scores: mean difference of class scores, in parts of their mean. classes: share of pixels of
        another class. losses: largest difference of a loss's part, in parts of the whole.
        gradients: length of the difference, in parts of the gradient's length.
    """

    scores: float
    classes: float
    losses: float
    gradients: float


_MEASURED = {
    "scores": "class scores, mean difference",
    "classes": "share of pixels of another class",
    "losses": "losses, largest difference",
    "gradients": "gradients of phase 2, length of the difference",
}
_EXACT, _ROUNDED = Limits(1e-3, 1e-3, 1e-3, 1e-2), Limits(3e-2, 1e-2, 3e-2, 3e-1)
# (computed in, matmul_precision): what passes. docs/performance.md says where these come from.
LIMITS = {
    ("float32", "highest"): _EXACT,
    ("bfloat16", "default"): _ROUNDED,
    ("float32", "default"): _ROUNDED,
}


def numbers(found: Findings, setting: Setting) -> None:
    """Part: compare prediction, losses and gradients in each precision."""
    network = Network(setting.tiny)
    with ThreadPoolExecutor(1) as beside:  # the CPU compiles while the accelerator does
        expected = beside.submit(network.computed_on, setting.cpu, "float32", "highest")
        if setting.device == setting.cpu:
            expected.result()  # the same program, to be compiled once
        for (dtype, precision), limits in LIMITS.items():
            ours = network.computed_on(setting.device, dtype, precision)
            measured = differences(ours, expected.result())
            title = f"{dtype}, {precision}: "
            for name, words in _MEASURED.items():
                found.check(title + words, measured[name], getattr(limits, name))
            module, worst = max(measured["modules"].items(), key=lambda item: item[1])
            found.note(f"{title}gradients differ most in `{module}`, by {worst:.2g}")


class Network:
    """The network of stage avss with all of SSP (tiny: of AAVS), its loss, a batch, and random
    parameters."""

    def __init__(self, tiny: bool):
        self._config = full_size_config("aavs" if tiny else "base")
        self._config[_STAGE].phases = "aavs"
        self._config[_STAGE].criterion.num_points = 256 if tiny else 12544
        self._size = {"overrides": TINY if tiny else FEWER, "num_queries": 10 if tiny else None}
        shapes = jax.eval_shape(self._loss("float32")[1], jax.random.key(0))
        plan = plan_phases(self._config, _STAGE)[-1]
        self._trained = trained_names(plan.optim, shapes)
        batch = stage_batch(self._config, _STAGE, _FRAMES, TINY_FRAME_SIZE if tiny else FRAME_SIZE)
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            self._inputs = jax.device_get(random_params(shapes)), batch

    def _loss(self, dtype: str) -> tuple[Loss, Callable]:
        return full_size_loss(self._config, _STAGE, dtype=dtype, **self._size)

    def computed_on(self, device: jax.Device, dtype: str, precision: str) -> tuple:
        """(class scores, losses by name, gradients by parameter) as host arrays."""
        loss, _ = self._loss(dtype)

        @multiplied_in(precision)
        def compute(params, batch):
            def loss_of(leaves):
                return loss(replace_leaves(params, leaves), batch, jax.random.key(0))

            leaves, _ = split_trained(params, self._trained)
            (whole, parts), grads = jax.value_and_grad(loss_of, has_aux=True)(leaves)
            scores = class_scores(loss.graphdef, params, batch, LABEL_SIZE, dtype, precision)
            return scores, {"loss": whole} | parts, grads

        return computed_on(device, compute, *self._inputs)


def differences(ours: tuple, expected: tuple) -> dict[str, Any]:
    """Return what `Limits` has, and `modules`: the gradients' by their path's first two names."""
    (scores, losses, grads), (right, true_losses, true_grads) = ours, expected
    whole = abs(true_losses["loss"])
    modules: dict[str, list[str]] = {}
    for name in true_grads:
        modules.setdefault("/".join(name.split("/")[:2]), []).append(name)
    return {
        "scores": np.abs(scores - right).mean() / np.abs(right).mean(),
        "classes": (scores.argmax(1) != right.argmax(1)).mean(),
        "losses": np.max([abs(losses[k] - v) / whole for k, v in true_losses.items()]),
        "gradients": _apart(grads, true_grads, true_grads),
        "modules": {module: _apart(grads, true_grads, names) for module, names in modules.items()},
    }


def _apart(ours: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], names: Any) -> float:
    """Length of the difference of these arrays, in parts of their length."""

    def length(arrays):
        return np.sqrt(sum(np.square(x, dtype=np.float64).sum() for x in arrays))

    apart = length(ours[name] - expected[name] for name in names)
    return float(apart / max(length(expected[name] for name in names), 1e-30))
