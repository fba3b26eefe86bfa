"""A training step of the real sizes, with random weights and frames, for measurements."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from configs import avss
from ssp_jax.batch import AVBatch, fake_batch
from ssp_jax.config import model_overrides
from ssp_jax.evaluators.segmentation import SegmentationEvaluator
from ssp_jax.kept_features import feature_shapes
from ssp_jax.models.network import TrainedNetwork
from ssp_jax.models.ssp import SSP
from ssp_jax.models.vggish import EMBEDDING
from ssp_jax.phases import make_phases
from ssp_jax.protocols import get_protocol
from ssp_jax.sharding import make_mesh, put_batch
from ssp_jax.train_state import TrainState, path_name, split_model
from ssp_jax.train_step import Loss, make_predict, make_train_step
from ssp_jax.weights.aavs import nested
from ssp_jax.weights.folder import load_facts, load_weights
from ssp_jax.weights.importing import import_weights
from ssp_jax.weights.shapes import abstract

FRAME_SIZE, LABEL_SIZE = 384, 224
_CLASSES = {"avs": 2, "avss": 71}


@dataclasses.dataclass(frozen=True)
class FullSizeStep:
    """`step(state, batch, key, state.step)`, and what to call it with."""

    step: Callable
    state: TrainState
    batch: AVBatch
    key: jax.Array


def described_mesh(topology: str, fsdp: int = 1) -> Mesh:
    """A mesh to compile for: of cpu:NUMBER devices of this machine, or of TPUs that need not be
    there ('v5e:2x4'), by libtpu. To be called before JAX has looked for devices."""
    if topology.startswith("cpu:"):
        jax.config.update("jax_num_cpu_devices", int(topology.removeprefix("cpu:")))
        devices = jax.devices()
    else:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
        devices = found.devices
    devices = np.array(devices).reshape(-1, fsdp)
    return Mesh(devices, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def random_batch(name: str, frames: int, frame_size: int = FRAME_SIZE, **prompts: Any) -> AVBatch:
    """A host batch of the stage's number of classes; `prompts` as in `fake_batch`."""
    return fake_batch(
        frames,
        frame_size=frame_size,
        label_size=LABEL_SIZE,
        num_classes=_CLASSES[name],
        num_sounds=0,
        **prompts,
    )


def random_params(shapes: Any) -> Any:
    """Parameters of these shapes, one leaf after the other, as those of a file come.

    A run of this size starts from weights. To draw all that the network's own initialisers would
    takes a program of its own, whose compilation needs more memory than a step does.
    """
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name = path_name(path)
        if name.endswith(("bias", "scale")):
            return jnp.full(leaf.shape, name.endswith("scale"), leaf.dtype)
        values = rng.standard_normal(leaf.shape, np.float32)
        return jnp.asarray(values / np.sqrt(max(1, leaf.size // leaf.shape[-1])), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def mask2former_forward(folder: Path, frames: int) -> tuple[Callable, tuple]:
    """The network as the Mask2Former that transformers saved in `folder`: without adapters, and
    with a silence that projects to nothing.

    Returns:
      (params, frames) -> mask and class logits, and what to call it with.
    """
    out = folder.with_name("imported")
    import_weights("mask2former", folder, out)
    arguments = load_facts(out)["model"] | {"audio_hidden": 8, "audio_width": 1 / 64}
    graphdef, params = nnx.split(abstract(lambda rngs: SSP(**arguments, rngs=rngs)), nnx.Param)
    # On the host, where zeros that the weights replace take no memory.
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), nnx.to_pure_dict(params))
    weights = {k.removeprefix("network/"): v for k, v in load_weights(out).items()}
    batch = random_batch("avss", frames)

    def forward(params, frames):
        silence = jnp.zeros((len(frames), EMBEDDING))
        predictions, _ = nnx.merge(graphdef, params)(frames, None, audio_features=silence)
        return {name: predictions[name] for name in ("mask_logits", "class_logits")}

    return forward, (jax.device_put(params | nested(weights)), batch.normalised())


def avss_predict(frames: int) -> tuple[Callable, Any, AVBatch]:
    """The prediction of `configs/avss.py:aavs`'s stage 2, parameters, and a batch of the host."""
    config, name = avss.get_config("aavs"), "avss"
    stage = config[name]
    overrides = {"decoder_adapter": stage.decoder_adapter, "mask_prompt": True}

    def make_model(rngs: nnx.Rngs) -> TrainedNetwork:
        return TrainedNetwork(
            _CLASSES[name],
            size=config.model.size,
            num_queries=stage.num_queries,
            num_sounds=0,
            listen=stage.listen,
            overrides=overrides,
            rngs=rngs,
        )

    graphdef, init = split_model(make_model)
    mesh = make_mesh()
    params = jax.device_put(random_params(jax.eval_shape(init, jax.random.key(0))))
    predict = make_predict(graphdef, mesh, jax.tree.map(lambda x: x.sharding, params), LABEL_SIZE)
    return predict, params, random_batch(name, frames, reference=True)


def avss_evaluation(frames: int) -> Callable[[], dict[str, float]]:
    """Predict and score a batch of stage 2, from host arrays to values."""
    predict, params, batch = avss_predict(frames)
    protocol = get_protocol(avss.get_config("aavs").protocol)
    evaluator = SegmentationEvaluator(protocol, False, _CLASSES["avss"])
    put = functools.partial(put_batch, make_mesh())
    return lambda: dict(evaluator.run(predict, params, [batch], put))


def full_size_step(
    name: str,
    phase_name: str,
    *,
    kind: str = "aavs",
    size: str = "base",
    dtype: str = "float32",
    frames: int = 5,
    frame_size: int = FRAME_SIZE,
    num_queries: int | None = None,
    remat: bool = False,
    kept_features: bool = False,
    accumulate: int = 1,
    mesh: Mesh | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> FullSizeStep:
    """The step of a stage of `configs/avss.py`.

    Args:
      name: 'avs' (2 classes) or 'avss' (71). phase_name: 'phase1', 'phase2' or 'all'.
      kind: of the config. size: of ssp_jax/models/sizes.py. frames: of a batch.
      num_queries: instead of the config's.
      accumulate: parts of the batch, see `make_train_step`.
      kept_features: the batch holds what the encoder makes of its frames.
      overrides: keyword arguments of the network, beside those of the config.
      mesh: of devices that need not be there: state, batch and key are shapes, to compile for.
    """
    config = avss.get_config(kind)
    config.init_from = "random weights serve here"
    config[name].phases = "all" if phase_name == "all" else "aavs"
    stage, classes = config[name], _CLASSES[name]
    prompted = stage.prompt.source != "none"

    def make_model(rngs: nnx.Rngs) -> TrainedNetwork:
        return TrainedNetwork(
            classes,
            size=size,
            num_queries=num_queries or stage.num_queries,
            num_sounds=0,
            listen=stage.listen,
            overrides=model_overrides(config)
            | {
                "decoder_adapter": stage.decoder_adapter,
                "mask_prompt": prompted,
                "premask": stage.prompt.premask,
                "own_reference": "self" if stage.prompt.source == "self" else "none",
                "post_mask_head": stage.criterion.post_mask == "head",
                "remat": remat,
            }
            | dict(overrides or {}),
            rngs=rngs,
        )

    graphdef, init = split_model(make_model)
    described, mesh = mesh is not None, mesh or make_mesh()
    phases = make_phases(config, name, init, mesh)
    phase = next(p for p in phases if phase_name in (p.plan.name or "all"))
    loss = Loss(
        graphdef,
        dtype=dtype,
        num_classes=classes,
        max_targets=stage.max_targets,
        criterion=stage.criterion.to_dict(),
        listen=stage.listen.to_dict(),
    )
    batch = random_batch(
        name,
        frames,
        frame_size,
        reference=prompted,
        flow_mask=stage.prompt.premask,
        text_length=config.texts.max_length if config.model.vta else 0,
        visual_tokens=(14, 14, 768) if config.model.vta_visual == "clip" else None,
        backbone=feature_shapes(graphdef, phase.states.shapes.params, frame_size)
        if kept_features
        else None,
    )
    step = make_train_step(
        loss, phase.tx, mesh, phase.states.shardings, phase.trained, accumulate=accumulate
    )
    if described:
        key = jax.eval_shape(lambda: jax.random.key(0))
        return FullSizeStep(step, phase.states.shapes, jax.eval_shape(lambda: batch), key)
    return FullSizeStep(
        step,
        phase.states.restart(jnp.zeros((), jnp.int32), random_params(phase.states.shapes.params)),
        put_batch(mesh, batch),
        jax.random.key(0),
    )
