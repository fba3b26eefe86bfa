"""A training step of the real sizes, with random weights and frames, for measurements."""

import dataclasses
import functools
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh
from ml_collections import ConfigDict

from configs import avss
from ssp_jax.batch import AVBatch, fake_batch
from ssp_jax.config import model_overrides
from ssp_jax.errors import UserError
from ssp_jax.evaluators.segmentation import SegmentationEvaluator
from ssp_jax.kept_features import feature_shapes
from ssp_jax.models.network import TrainedNetwork
from ssp_jax.models.ssp import SSP
from ssp_jax.models.vggish import EMBEDDING
from ssp_jax.phases import make_phases
from ssp_jax.protocols import get_protocol
from ssp_jax.sharding import make_mesh, put_batch, replicated
from ssp_jax.train_state import TrainState, path_name, split_model
from ssp_jax.train_step import Loss, make_predict, make_train_step
from ssp_jax.weights.aavs import nested
from ssp_jax.weights.folder import load_facts, load_weights
from ssp_jax.weights.importing import import_weights
from ssp_jax.weights.shapes import abstract

FRAME_SIZE, LABEL_SIZE = 384, 224
# GPUs that `described_mesh` knows, by what XLA's repository says of them.
GPUS = {"h100": "h100_sxm.txtpb", "h200": "h200.txtpb"}
_TARGET_CONFIGS = Path(__file__).parent / "target_configs"
# For processes that compile for devices that are not there: no server is asked whether this is a
# TPU's machine, and two may load libtpu; without a GPU nothing tells XLA which tiles Triton's
# products should have, and its own choice does not compile everywhere, so products are cuBLAS's.
# Nothing is taken from a cache, so that every compilation is timed.
DESCRIBED_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "XLA_FLAGS": "--xla_gpu_enable_triton_gemm=false",
    "JAX_ENABLE_COMPILATION_CACHE": "false",
}
_CLASSES = {"avs": 2, "avss": 71}


@dataclasses.dataclass(frozen=True)
class FullSizeStep:
    """`step(state, batch, key, state.step)`, and what to call it with."""

    step: Callable
    state: TrainState
    batch: AVBatch
    key: jax.Array


def described_mesh(topology: str, fsdp: int = 1) -> Mesh:
    """A mesh to compile for. To be called before JAX has looked for devices.

    Args:
      topology: 'cpu:NUMBER' devices of this machine; or devices that need not be there: TPUs
        ('v5e:2x4'), by libtpu, or one GPU ('h100', 'h200'), by JAX's CUDA plugin, in a process
        with `DESCRIBED_ENVIRONMENT`.

    Raises:
      UserError: the compiler for these devices is not installed.
    """
    lacking = lacking_compiler(topology)
    if lacking:
        raise UserError(f"--topology={topology}: needs {lacking}: pip install 'ssp-jax[aot]'")
    if topology.startswith("cpu:"):
        jax.config.update("jax_num_cpu_devices", int(topology.removeprefix("cpu:")))
        devices = jax.devices()
    elif topology in GPUS:
        config = (_TARGET_CONFIGS / GPUS[topology]).read_text()
        found = topologies.get_topology_desc(
            platform="cuda", target_config=config, topology="1x1x1"
        )
        devices = found.devices
    else:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
        devices = found.devices
    devices = np.array(devices).reshape(-1, fsdp)
    return Mesh(devices, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def lacking_compiler(topology: str) -> str:
    """The package that has to be installed to compile for `topology`; '' where it is there."""
    if topology.startswith("cpu:"):
        return ""
    package = "jax_cuda12_plugin" if topology in GPUS else "libtpu"
    return "" if importlib.util.find_spec(package) else package.replace("_", "-")


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


def full_size_predict(
    name: str,
    *,
    kind: str = "aavs",
    size: str = "base",
    dtype: str = "float32",
    frames: int = 5,
    frame_size: int = FRAME_SIZE,
    mesh: Mesh | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[Callable, Any, AVBatch]:
    """The prediction of a stage of `configs/avss.py`, parameters, and a batch of the host.

    Arguments as those of `full_size_step`; with `mesh` parameters and batch are shapes.
    """
    config = avss.get_config(kind)
    graphdef, init = split_model(_network_maker(config, name, size=size, overrides=overrides))
    described, mesh = mesh is not None, mesh or make_mesh()
    shapes = jax.eval_shape(init, jax.random.key(0))
    params = shapes if described else jax.device_put(random_params(shapes))
    shardings = jax.tree.map(lambda _: replicated(mesh), shapes)
    predict = make_predict(graphdef, mesh, shardings, LABEL_SIZE, dtype)
    batch = stage_batch(config, name, frames, frame_size)
    return predict, params, jax.eval_shape(lambda: batch) if described else batch


def _network_maker(
    config: ConfigDict,
    name: str,
    *,
    size: str,
    num_queries: int | None = None,
    remat: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> Callable[[nnx.Rngs], TrainedNetwork]:
    """Return what makes the network of a stage of the config."""
    stage = config[name]

    def make_model(rngs: nnx.Rngs) -> TrainedNetwork:
        return TrainedNetwork(
            _CLASSES[name],
            size=size,
            num_queries=num_queries or stage.num_queries,
            num_sounds=0,
            listen=stage.listen,
            overrides=model_overrides(config)
            | {
                "decoder_adapter": stage.decoder_adapter,
                "mask_prompt": stage.prompt.source != "none",
                "premask": stage.prompt.premask,
                "own_reference": "self" if stage.prompt.source == "self" else "none",
                "post_mask_head": stage.criterion.post_mask == "head",
                "remat": remat,
            }
            | dict(overrides or {}),
            rngs=rngs,
        )

    return make_model


def stage_batch(
    config: ConfigDict, name: str, frames: int, frame_size: int = FRAME_SIZE, **more: Any
) -> AVBatch:
    """A host batch with all that the stage reads; `more` as in `fake_batch`."""
    prompt = config[name].prompt
    return random_batch(
        name,
        frames,
        frame_size,
        reference=prompt.source != "none",
        flow_mask=prompt.premask,
        text_length=config.texts.max_length if config.model.vta else 0,
        visual_tokens=(14, 14, 768) if config.model.vta_visual == "clip" else None,
        **more,
    )


def full_size_config(kind: str) -> ConfigDict:
    """`configs/avss.py` of that kind, whose phases need no weights to start from."""
    config = avss.get_config(kind)
    config.init_from = "random weights serve here"
    return config


def full_size_loss(
    config: ConfigDict,
    name: str,
    *,
    size: str = "base",
    dtype: str = "float32",
    num_queries: int | None = None,
    remat: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[Loss, Callable[[jax.Array], Any]]:
    """The loss of a stage of the config, its network in it, and key -> parameters.

    Arguments as those of `full_size_step`.
    """
    graphdef, init = split_model(
        _network_maker(
            config, name, size=size, num_queries=num_queries, remat=remat, overrides=overrides
        )
    )
    stage = config[name]
    loss = Loss(
        graphdef,
        dtype=dtype,
        num_classes=_CLASSES[name],
        max_targets=stage.max_targets,
        criterion=stage.criterion.to_dict(),
        listen=stage.listen.to_dict(),
    )
    return loss, init


def avss_evaluation(frames: int) -> Callable[[], dict[str, float]]:
    """Predict and score a batch of stage 2, from host arrays to values."""
    predict, params, batch = full_size_predict("avss", frames=frames)
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
    config = full_size_config(kind)
    config[name].phases = "all" if phase_name == "all" else "aavs"
    loss, init = full_size_loss(
        *(config, name),
        size=size,
        dtype=dtype,
        num_queries=num_queries,
        remat=remat,
        overrides=overrides,
    )
    described, mesh = mesh is not None, mesh or make_mesh()
    phases = make_phases(config, name, init, mesh)
    phase = next(p for p in phases if phase_name in (p.plan.name or "all"))
    more = {}
    if kept_features:
        shapes = phase.states.shapes.params
        more["backbone"] = feature_shapes(loss.graphdef, shapes, frame_size)
    batch = stage_batch(config, name, frames, frame_size, **more)
    step = make_train_step(
        loss,
        phase.optimizer.tx,
        mesh,
        phase.states.shardings,
        phase.trained,
        joined=phase.optimizer.joined,
        accumulate=accumulate,
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
