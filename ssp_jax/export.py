"""A run's network as one function for serving, which needs JAX alone (and its `flatbuffers`).

  python -m ssp_jax.export runs/demo --out=served/demo

Writes into the new folder
  function.bin  `jax.export`: (parameters, inputs) -> labels, scores; for cpu, cuda and tpu, any
                number of frames; stage avs is in it where it prompts stage avss
  weights.npz   the parameters
  facts.json    shapes and types of the inputs, names of the classes
and looks whether what it wrote gives the run's own masks on random inputs. To call it:

  import jax, numpy as np
  function = jax.export.deserialize(open("served/demo/function.bin", "rb").read())
  weights = jax.device_put(dict(np.load("served/demo/weights.npz")))
  labels, scores = jax.jit(function.call)(weights, {"frames": frames, "log_mel": log_mel, ...})

frames: RGB, resized to the network's side; log_mel: `log_mel_windows` of ssp_jax/data/log_mel.py
(NumPy and SciPy alone), a window a second.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ssp_jax.batch import PROMPTS, AVBatch, fake_batch
from ssp_jax.clip_tokens import token_shape
from ssp_jax.devices import device_line
from ssp_jax.errors import UserError
from ssp_jax.files import whole_folder
from ssp_jax.mask_prompts import soft_masks
from ssp_jax.places import run_path
from ssp_jax.plain_commands import command_parser, run_and_exit
from ssp_jax.predict.checkpoint import TrainedStage, stages_of_run
from ssp_jax.predict.clips import SECONDS
from ssp_jax.stage import REFERENCES, Stage
from ssp_jax.train_state import path_name
from ssp_jax.train_step import class_scores
from ssp_jax.weights.folder import check_new
from tfds_builders.places import local_path

FUNCTION, WEIGHTS, FACTS = "function.bin", "weights.npz", "facts.json"
PLATFORMS = ("cpu", "cuda", "tpu")
# Between two compilations of one network: mean difference of its scores in 0..1, and share of
# pixels that get another class.
TOLERANCE = {"float32": (1e-4, 1e-3), "bfloat16": (1e-2, 1e-2)}
# What the caller gives, of `AVBatch`; `reference` and `own_reference` are made here.
_GIVEN = ("frames", "log_mel", *(p for p in PROMPTS if p not in ("reference", "own_reference")))
Inputs = Mapping[str, Array]


def export_run(run: Path, out: Path) -> dict[str, Any]:
    """Write the folder; what facts.json says.

    Raises:
      UserError: no trained run, `out` exists, or what was written does not give the same masks.
    """
    check_new(out)
    stages = stages_of_run(run)
    final, _ = list(stages.values())[-1]
    example = _example(list(stages.values()))
    weights = {
        f"{name}/{path_name(path)}": jax.device_get(leaf)
        for name, (_, params) in stages.items()
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    (frames,) = jax.export.symbolic_shape("frames")
    shapes = {k: jax.ShapeDtypeStruct((frames, *x.shape[1:]), x.dtype) for k, x in example.items()}
    exported = jax.export.export(jax.jit(_function(stages)), platforms=PLATFORMS)(
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), weights), shapes
    )
    facts = {
        "inputs": {k: ["N", *x.shape[1:], str(x.dtype)] for k, x in example.items()},
        "outputs": {"labels": "N h w, index of the class", "scores": "N K h w, of each class"},
        "class_names": final.class_names,
        "platforms": exported.platforms,
    }
    with whole_folder(out) as folder:
        (folder / FUNCTION).write_bytes(exported.serialize())
        np.savez(folder / WEIGHTS, **weights)
        difference, other = _check(folder, stages, example)
        facts["checked"] = {"mean_score_difference": difference, "pixels_of_another_class": other}
        (folder / FACTS).write_text(json.dumps(facts, indent=1) + "\n")
    return facts


def _function(stages: Mapping[str, TrainedStage]) -> Callable[[Mapping, Inputs], tuple]:
    """(weights, inputs) -> (labels, scores) of the last stage."""
    structures = {name: jax.tree.map(lambda x: 0, params) for name, (_, params) in stages.items()}
    final = list(stages.values())[-1][0]

    def function(weights: Mapping[str, Array], inputs: Inputs):
        reference = None
        for name, (stage, _) in stages.items():
            params = jax.tree_util.tree_map_with_path(
                lambda path, _, name=name: weights[f"{name}/{path_name(path)}"], structures[name]
            )
            batch = _batch(stage, inputs, reference, jnp)
            scores = class_scores(
                *(stage.graphdef, params, batch, final.spec.label_size),
                *(stage.config.dtype, stage.precision),
            )
            reference = soft_masks(scores) if stage is not final else None
        return scores.argmax(1).astype(jnp.uint8), scores

    return function


def _batch(stage: Stage, inputs: Inputs, reference: Array | None, xp) -> AVBatch:
    """A stage's batch of the given inputs, in the arrays of module `xp`."""
    spec, count = stage.spec, inputs["frames"].shape[0]
    nothing = xp.zeros((count, spec.label_size, spec.label_size), xp.uint8)
    given = ["frames", "log_mel"]
    given += ["flow_mask"] if spec.flow_mask else []
    given += ["text_ids", "text_types", "text_mask"] if spec.text_length else []
    given += ["visual_tokens"] if spec.visual_tokens else []
    prompts = {}
    if spec.reference:
        own = REFERENCES[stage.stage.prompt.source] == "own"
        prompts["reference"] = nothing if reference is None else reference
        prompts["own_reference"] = xp.full((count,), own)
    return AVBatch(
        **{name: inputs[name] for name in given},
        **prompts,
        labels=nothing,
        valid=xp.ones((count,), bool),
        annotated=xp.zeros((count,), bool),
        clip=xp.zeros((count,), xp.int32),
        second=xp.zeros((count,), xp.int32),
        sounds=xp.zeros((count, len(spec.sound_names)), xp.float32),
        sounds_known=xp.zeros((count,), bool),
    )


def _example(stages: Sequence[TrainedStage]) -> dict[str, np.ndarray]:
    """Random inputs of all that any of the stages reads; as many as `ssp_jax.predict` takes."""
    given = {}
    for stage, _ in stages:
        spec = stage.spec
        batch = fake_batch(
            SECONDS,
            frame_size=spec.frame_size,
            label_size=spec.label_size,
            flow_mask=spec.flow_mask,
            text_length=spec.text_length,
            visual_tokens=token_shape(stage.clip) if stage.clip else None,
        )
        given |= {name: v for name in _GIVEN if (v := getattr(batch, name)) is not None}
    return given


def _check(
    folder: Path, stages: Mapping[str, TrainedStage], inputs: dict[str, np.ndarray]
) -> tuple[float, float]:
    """Compare the files with the prediction that evaluations use; mean difference of the scores,
    and share of pixels of another class."""
    function = jax.export.deserialize((folder / FUNCTION).read_bytes())
    with np.load(folder / WEIGHTS, allow_pickle=False) as weights:
        given = jax.device_put((dict(weights), inputs))
        labels, scores = jax.device_get(jax.jit(function.call)(*given))
    reference = None
    final = list(stages.values())[-1][0]
    for stage, params in stages.values():
        # As many frames as divide over the devices.
        repeated = {k: np.repeat(v, stage.mesh.size, axis=0) for k, v in inputs.items()}
        predict = stage.predict if stage is final else stage.make_predict(final.spec.label_size)
        batch = stage.put(_batch(stage, repeated, reference, np))
        expected = predict(params, batch)
        reference = None if stage is final else jax.device_get(soft_masks(expected))
    expected = jax.device_get(expected)[:: stage.mesh.size]
    difference = float(np.abs(scores - expected).mean())
    other = float((labels != expected.argmax(1)).mean())
    most = TOLERANCE[final.config.dtype]
    if not (difference <= most[0] and other <= most[1]):
        raise UserError(
            "the exported function does not give the run's masks: scores differ by "
            f"{difference:.1e} in the mean, {100 * other:.2f} % of the pixels have another class. "
            "Please report this"
        )
    return difference, other


def run(argv: Sequence[str] | None = None) -> str:
    """The command; what to say at its end.

    Raises:
      UserError: see `export_run`.
    """
    parser = command_parser("ssp_jax.export", __doc__)
    parser.add_argument(
        "run", metavar="RUN", type=run_path, help="of ssp_jax.main or ssp_jax.hub pull"
    )
    parser.add_argument("--out", required=True, metavar="DIR", type=local_path, help="new folder")
    flags = parser.parse_args(argv)
    print(device_line(), file=sys.stderr)
    facts = export_run(flags.run, flags.out)
    checked = facts["checked"]
    return (
        f"{flags.out}: for {', '.join(facts['platforms'])}; inputs {json.dumps(facts['inputs'])}\n"
        f"on random inputs {100 * checked['pixels_of_another_class']:.3f} % of the pixels have "
        f"another class than by the run, scores differ by {checked['mean_score_difference']:.1e}"
    )


def main() -> None:
    """Entry of the command; a UserError becomes one message and exit status 1."""
    run_and_exit(lambda: print(run()))


if __name__ == "__main__":
    main()
