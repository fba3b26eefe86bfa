"""This project's network against a PyTorch one's stored values: outputs, loss, gradients."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util

from ssp_jax.errors import UserError
from ssp_jax.losses import mask_losses
from ssp_jax.models.ssp import SSP, segmentation_map
from ssp_jax.weights import aavs
from ssp_jax.weights.reference import Reference
from ssp_jax.weights.rules import to_source
from ssp_jax.weights.shapes import abstract

# Reference files make their segmentation maps by way of this size, whatever the frames' (AAVS).
IMAGE_SIZE = 384
GRADIENT_FACTOR = 10  # a gradient may be off by this many tolerances
# Some gradients are zero in exact arithmetic (the bias of keys, which softmax cancels; a bias that
# a norm over a single channel takes off): what float32 leaves of them is rounding, below this share
# of the largest gradient, and the ratio of two roundings says nothing.
_ROUNDING = float(np.finfo(np.float32).eps)


class Difference(NamedTuple):
    """How far a value is off.

    Attributes:
      name: as in the reference file. error: largest |ours - theirs| / largest |theirs|; of
      gradients that are zero, ours / the largest gradient. limit: what is allowed.
    """

    name: str
    error: float
    limit: float

    @property
    def fits(self) -> bool:
        """Within its limit (not if it is no number)."""
        return self.error <= self.limit


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """max |ours - theirs| / max |theirs|, in float64; inf where shapes differ."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        return float("inf")
    difference, scale = np.abs(ours - theirs).max(), np.abs(theirs).max()
    return float(difference / scale) if scale else (0.0 if difference == 0 else float("inf"))


def compute(
    reference: Reference, *, sampling: str = "auto"
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return what this project computes in a reference's place: float32, highest matmul precision.

    Args:
      sampling: see `DeformableAttention`.

    Returns:
      Outputs by the reference's names ('out/...', channels first), and the loss's gradients by
      AAVS's names and in its layout.
    """
    arguments = reference.arguments | {"audio_width": 1 / 64}  # audio features are given
    model = abstract(lambda rngs: SSP(**arguments, sampling=sampling, rngs=rngs))
    graphdef, shapes = nnx.split(model, nnx.Param)
    silent = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), nnx.to_pure_dict(shapes)["audio_encoder"]
    )
    inputs, draws = reference.inputs(), reference.draws()

    @jax.jit
    def run(params, inputs, targets, draws):
        def loss(params):
            network = nnx.merge(graphdef, params | {"audio_encoder": silent})
            predictions, aux = network(
                inputs["frames"],
                None,
                reference=inputs["prompt"],
                audio_features=inputs["audio"],
            )
            total, _ = mask_losses.criterion(
                predictions,
                aux["layers"],
                targets,
                draws=draws,
                **reference.criterion_settings(),
            )
            return total, (predictions, aux)

        return jax.value_and_grad(loss, has_aux=True)(params)

    with jax.default_matmul_precision("highest"):
        params = aavs.nested(reference.params())
        (loss, (predictions, aux)), gradients = run(params, inputs, reference.targets(), draws)
        outputs = _outputs(predictions, aux) | {"out/loss": np.asarray(loss)[None]}
        for size in _map_sizes(reference):
            outputs[f"out/segmentation_{size}"] = np.asarray(
                segmentation_map(
                    predictions["mask_logits"], predictions["class_logits"], IMAGE_SIZE, size
                )
            )
    flat = {
        "/".join(map(str, path)): np.asarray(value)
        for path, value in traverse_util.flatten_dict(gradients).items()
    }
    return outputs, to_source(flat, aavs.RULES, what="AAVS's network")


def _map_sizes(reference: Reference) -> list[int]:
    names = map(re.compile(r"out/segmentation_(\d+)").fullmatch, reference.values)
    return [int(match[1]) for match in names if match]


def _outputs(predictions: Mapping[str, Any], aux: Mapping[str, Any]) -> dict[str, np.ndarray]:
    outputs = {
        f"out/{name}/{index}": np.moveaxis(np.asarray(level), -1, 1)
        for name in ("backbone", "multi_scale")
        for index, level in enumerate(aux[name])
    }
    outputs["out/mask_features"] = np.moveaxis(np.asarray(aux["mask_features"]), -1, 1)
    layers = {f"out/aux/{index}": layer for index, layer in enumerate(aux["layers"])}
    for prefix, layer in {**layers, "out": predictions}.items():
        outputs[f"{prefix}/masks_queries_logits"] = np.asarray(layer["mask_logits"])
        outputs[f"{prefix}/class_queries_logits"] = np.asarray(layer["class_logits"])
    return outputs


def differences(
    reference: Reference, *, tolerance: float = 1e-4, sampling: str = "auto"
) -> list[Difference]:
    """Every stored output, loss and gradient compared, in the file's order.

    Raises:
      UserError: the file lacks something, or holds an output that this project does not name.
    """
    outputs, gradients = compute(reference, sampling=sampling)
    stored = [name for name in reference.values if name.startswith("out/")]
    unknown = sorted(set(stored) ^ set(outputs))
    if unknown:
        raise UserError(
            f"{reference.path}: its outputs and this network's differ: {', '.join(unknown[:5])}"
        )
    rows = [
        Difference(name, relative_error(outputs[name], reference[name]), tolerance)
        for name in stored
    ]
    return rows + _gradient_rows(reference, gradients, GRADIENT_FACTOR * tolerance)


def _gradient_rows(
    reference: Reference, gradients: Mapping[str, np.ndarray], tolerance: float
) -> list[Difference]:
    ours = {f"norm/{name}": np.linalg.norm(g.astype(np.float64)) for name, g in gradients.items()}
    theirs = {f"norm/{name}": np.asarray(norm) for name, norm in reference.grad_norms.items()}
    largest = max(theirs.values(), default=np.asarray(0.0))
    ours |= {f"grad/{name}": gradient for name, gradient in gradients.items()}
    theirs |= {k: reference[k] for k in reference.values if k.startswith("grad/")}
    if reference.grad_norms and len(reference.grad_norms) != len(gradients):
        missing = sorted(gradients.keys() ^ reference.grad_norms.keys())
        raise UserError(f"{reference.path}: gradients of other weights: {', '.join(missing[:5])}")
    rows = []
    for name, value in theirs.items():
        if name not in ours:
            raise UserError(f"{reference.path}: {name}: this network has no such weight")
        if np.abs(value).max() <= _ROUNDING * largest:
            error = float(np.abs(ours[name]).max() / largest) if largest else 0.0
            rows.append(Difference(name + " (zero)", error, _ROUNDING))
        else:
            rows.append(Difference(name, relative_error(ours[name], value), tolerance))
    return rows


def table(rows: Iterable[Difference]) -> str:
    """A line for every kind of value, numbers in names as '*', with its largest error."""
    kinds: dict[str, list[Difference]] = defaultdict(list)
    for row in rows:
        kinds[re.sub(r"(?<=[./])\d+(?=[./]|$)", "*", _short(row.name))].append(row)
    width = max(map(len, kinds), default=0)
    lines = [f"{'':{width}}  number  largest error   limit"]
    for kind, members in kinds.items():
        # Numbers that are none come first.
        worst = max(members, key=lambda row: (row.error != row.error, row.error))
        verdict = "" if all(row.fits for row in members) else "  FAILS"
        lines.append(
            f"{kind:{width}}  {len(members):6}  {worst.error:13.1e}  {worst.limit:6.0e}{verdict}"
        )
    return "\n".join(lines)


def _short(name: str) -> str:
    for long, short in (
        ("model.pixel_level_module.encoder.", "encoder."),
        ("model.pixel_level_module.decoder.", "pixel_decoder."),
        ("model.transformer_module.", "decoder."),
    ):
        name = name.replace(long, short)
    return name


def verify(path: str | Path, *, tolerance: float = 1e-4) -> bool:
    """Print the comparison with a reference file; whether everything is within its limit.

    Args:
      tolerance: relative, of outputs and loss; gradients may be off by `GRADIENT_FACTOR` times it.

    Raises:
      UserError: the file is missing, damaged, or of another layout.
    """
    reference = Reference(path)
    rows = differences(reference, tolerance=tolerance)
    failed = [row for row in rows if not row.fits]
    print(f"{path}: AAVS stage {reference.stage}, float32, highest matmul precision")
    print(table(rows))
    for row in failed:
        print(f"FAILS  {row.name}: {row.error:.1e} > {row.limit:.0e}")
    print(f"{len(rows) - len(failed)} of {len(rows)} values within their limits")
    return not failed
