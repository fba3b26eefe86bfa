"""Reference values of a PyTorch network in one .npz file: weights, inputs, outputs, gradients.

Its arrays, T frames, Q queries, L predictions (the initial queries' and each decoder layer's):

config_json               bytes of JSON, fields as in Hugging Face's Mask2FormerConfig
state/<name>              weights by AAVS's names (`ssp_jax.weights.aavs`)
in/pixel_values           (T, 3, H, W); in/audio_features (T, 128); stage 2: in/audio_boost_mask
in/mask_labels/<t>        (n_t, H, W); in/class_labels/<t> (n_t,)
out/backbone/<i>, out/multi_scale/<i>, out/mask_features          channels first
out/aux/<i>/masks_queries_logits, out/aux/<i>/class_queries_logits   all predictions but the last
out/masks_queries_logits, out/class_queries_logits                   the last
out/segmentation_<S>      (T, K, S, S), by way of 384 x 384 pixels
out/loss                  (1,) with the draws below, everything trainable
grad/<name>, grad_norms_json   gradients of it, and the L2 norm of every weight's gradient
draws/<i>                 the loss's uniform random points (x, y) in order: the final prediction
                          first, then the auxiliary ones; for each one draw a frame (1, P, 2) for
                          the matching, then candidates (M, C, 2) and others (M, R, 2), M = sum n_t
"""

import json
import zipfile
import zlib
from functools import cached_property
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ssp_jax.errors import UserError
from ssp_jax.losses.draws import Draws
from ssp_jax.losses.targets import NO_TARGET, MaskTargets
from ssp_jax.weights import infer
from ssp_jax.weights.aavs import aavs_params

_MAX_BYTES = 16 << 30
_UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)


class Reference:
    """What a reference file holds, in this project's layout.

    Attributes:
      values: all arrays by name. state: the weights. config: the PyTorch model's.
      arguments: of `SSP`. stage: AAVS's.
    """

    def __init__(self, path: str | Path):
        """Read it. Raises UserError: missing, damaged, or without what the layout demands."""
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"{path}: no such file")
        try:
            with zipfile.ZipFile(self.path) as file:
                size = sum(entry.file_size for entry in file.infolist())
            if size > _MAX_BYTES:  # few bytes of the file may stand for any number of zeros
                raise ValueError(f"{size >> 30} GiB unpacked; expected {_MAX_BYTES >> 30} at most")
            with np.load(self.path, allow_pickle=False) as file:
                self.values = {key: file[key] for key in file.files}
            self.config = json.loads(self["config_json"].tobytes())
            norms = self.values.get("grad_norms_json", np.frombuffer(b"{}", np.uint8))
            self.grad_norms: dict[str, float] = json.loads(norms.tobytes())
        except (*_UNREADABLE, AttributeError, RecursionError, MemoryError) as error:
            raise UserError(f"{path}: cannot be read as a file of arrays ({error})") from error
        self.state = {k[6:]: v for k, v in self.values.items() if k.startswith("state/")}
        try:
            self.arguments = infer.mask2former_arguments(self.state)
            infer.check_config(self.config, self.arguments, "config_json")
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        self.stage = infer.stage_of(self.arguments)
        if self.stage is None:
            raise UserError(f"{path}: its weights have none of AAVS's adapters")

    def __getitem__(self, key: str) -> np.ndarray:
        if key not in self.values:
            raise UserError(f"{self.path}: has no {key}; expected a reference file of AAVS")
        return self.values[key]

    def criterion_settings(self) -> dict[str, float]:
        """Weights of the loss, for `mask_losses.criterion`."""
        names = ("class_weight", "mask_weight", "dice_weight", "no_object_weight")
        names += ("importance_sample_ratio",)
        # AAVS's code has 1 in its matching cost, where method 3.7 and Mask2Former have 2.
        return {name: self.config[name] for name in names if name in self.config} | {
            "matching_class_weight": 1.0
        }

    def params(self) -> dict[str, np.ndarray]:
        """`SSP`'s parameters by path, without the audio encoder's."""
        return aavs_params(self.state, self.arguments)

    def inputs(self) -> dict[str, Any]:
        """Frames (T, H, W, 3), audio features (T, 128), mask prompt (T, h, w) or None."""
        return {
            "frames": np.moveaxis(self["in/pixel_values"], 1, -1),
            "audio": self["in/audio_features"],
            "prompt": self["in/audio_boost_mask"] if self.stage == 2 else None,
        }

    @cached_property
    def counts(self) -> list[int]:
        """Number of targets of each frame."""
        return [len(self[f"in/class_labels/{t}"]) for t in range(len(self["in/pixel_values"]))]

    @property
    def layers(self) -> int:
        """Number of predictions, the last one included."""
        return self.arguments["decoder_layers"] + 1

    def targets(self, width: int | None = None) -> MaskTargets:
        """The labels, padded to `width` targets a frame (the largest number of one by default)."""
        width = width or max(self.counts)
        frames = len(self.counts)
        size = self["in/mask_labels/0"].shape[1:]
        masks = np.ones((frames, width, *size), np.float32)
        classes = np.full((frames, width), NO_TARGET)
        for frame, count in enumerate(self.counts):
            masks[frame, :count] = self[f"in/mask_labels/{frame}"]
            classes[frame, :count] = self[f"in/class_labels/{frame}"]
        return MaskTargets(
            jnp.asarray(masks), jnp.asarray(classes), jnp.ones(frames, bool), jnp.zeros((), int)
        )

    def draws(self, width: int | None = None) -> Draws:
        """The flat stored draws in the padded layout.

        Raises:
          UserError: there are more or fewer than the layout says.
        """
        width = width or max(self.counts)
        frames = len(self.counts)
        names = [name for name in self.values if name.startswith("draws/")]
        if len(names) != self.layers * (frames + 2):
            raise UserError(
                f"{self.path}: has {len(names)} draws, expected {self.layers} predictions x "
                f"({frames} frames + 2)"
            )
        ends = np.cumsum(self.counts)
        matching = np.zeros((frames, self.layers, *self["draws/0"].shape[1:]), np.float32)
        pairs = []  # candidates, others
        for kind in (0, 1):
            shape = self[f"draws/{frames + kind}"].shape[1:]
            pairs.append(np.full((frames, self.layers, width, *shape), 0.5, np.float32))
        for layer in range(self.layers):
            first = layer * (frames + 2)
            for frame, (end, count) in enumerate(zip(ends, self.counts, strict=True)):
                matching[frame, layer] = self[f"draws/{first + frame}"][0]
                for kind in (0, 1):
                    flat = self[f"draws/{first + frames + kind}"]
                    pairs[kind][frame, layer, :count] = flat[end - count : end]
        return Draws(*map(jnp.asarray, (matching, *pairs)))
