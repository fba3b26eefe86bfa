"""Pure functions of one step: loss, gradients, update; and prediction for evaluation."""

import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float

from ssp_jax.batch import AVBatch
from ssp_jax.flops import step_flops
from ssp_jax.goodput import Speed
from ssp_jax.joined_leaves import ALONE, JoinedLeaves
from ssp_jax.losses.listening import (
    audio_visual_contrast,
    audio_visual_map,
    sound_classification,
)
from ssp_jax.losses.mask_losses import set_criterion
from ssp_jax.losses.targets import Totals, count_totals, targets_from_labels
from ssp_jax.models.ssp import segmentation_map
from ssp_jax.sharding import batch_sharding, on_mesh, replicated
from ssp_jax.train_state import TrainState, replace_leaves, split_trained

_LOG = logging.getLogger(__name__)
# Scopes (`jax.named_scope`) of a step's operations by the parts of the method, opened here and in
# `models/ssp.py`: they stand in the op_name of compiled instructions and in a profiler's trace.
# Within `losses` lie `matching` and `points`.
PARTS = (
    *("encoder", "audio_encoder", "pixel_decoder", "vta", "audio_visual_map", "premask"),
    *("mask_decoder", "losses", "optimiser"),
)
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def cast_floats(tree, dtype):
    """The tree with its floating point leaves in another precision."""
    return jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def multiplied_in(precision: str) -> Callable[[Callable], Callable]:
    """Decorate a function that JAX traces: its products of float32 arrays get this precision.

    Gradients and updates that are traced within as well; a product that asks for its own keeps it.

    Args:
      precision: a word of JAX's `jax_default_matmul_precision`, as config.matmul_precision.
    """

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def traced(*arguments):
            with jax.default_matmul_precision(precision):
                return function(*arguments)

        return traced

    return decorate


def _run_network(graphdef: nnx.GraphDef, params: dict, batch: AVBatch, dtype: str):
    """(model, predictions, aux): the network computed in `dtype`, its results in float32."""
    model = nnx.merge(graphdef, cast_floats(params, DTYPES[dtype]))
    inputs = cast_floats((batch.normalised(), batch.log_mel), DTYPES[dtype])
    more = cast_floats({"backbone": batch.backbone(), **batch.prompts()}, DTYPES[dtype])
    return model, *cast_floats(model.network(*inputs, **more), jnp.float32)


@dataclasses.dataclass(frozen=True)
class Loss:
    """The loss of one batch: (params, batch, key) -> (loss, parts).

    Attributes:
      criterion: settings of `losses.mask_losses.criterion` (method 3.7).
      listen: weights of the auxiliary losses `sounds`, `map`, `contrast`; 0 leaves one out of the
        compiled step.
      dtype: what the network computes in, a name of `DTYPES`; parameters, gradients and losses are
        float32 all the same.
    """

    graphdef: nnx.GraphDef
    _: dataclasses.KW_ONLY
    num_classes: int
    max_targets: int
    criterion: Mapping[str, float]
    listen: Mapping[str, float]
    dtype: str = "float32"

    def __call__(
        self, params: dict, batch: AVBatch, key: jax.Array, totals: Totals | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """Random points are those of key, clip and second: the same in any part of a batch.

        Args:
          totals: of the batch that `batch` is a part of; losses and parts of all parts then add up
            to those of the batch. Not so the contrast of `listen`, which compares frames.
        """
        model, predictions, aux = _run_network(self.graphdef, params, batch, self.dtype)
        with jax.named_scope("losses"):
            return self._of(model, predictions, aux, batch, key, totals)

    def _of(
        self,
        model: nnx.Module,
        predictions: dict[str, Array],
        aux: dict,
        batch: AVBatch,
        key: jax.Array,
        totals: Totals | None,
    ) -> tuple[Array, dict[str, Array]]:
        """Return what the network's predictions cost."""
        fold = jax.vmap(jax.random.fold_in, (None, 0)), jax.vmap(jax.random.fold_in)
        loss, parts = set_criterion(
            predictions,
            aux["layers"],
            batch.labels,
            batch.annotated,
            num_classes=self.num_classes,
            max_targets=self.max_targets,
            keys=fold[1](fold[0](key, batch.clip), batch.second),
            totals=totals,
            flow_mask=batch.prompts().get("flow_mask"),
            post_mask_logits=aux.get("post_mask_logits"),
            **self.criterion,
        )
        parts = {f"loss/{name}": value for name, value in parts.items()}
        for name, value in _listening(model, aux, batch, self.listen, totals).items():
            parts[f"loss/{name}"] = value
            loss = loss + self.listen[name] * value
        return loss, parts

    def totals(self, batch: AVBatch) -> Totals:
        """Return what the sums of a batch are divided by."""
        targets = targets_from_labels(
            batch.labels,
            batch.annotated,
            num_classes=self.num_classes,
            max_targets=self.max_targets,
        )
        known = (batch.sounds_known & batch.valid).sum()
        return dataclasses.replace(count_totals(targets), sounds_known=known)


def _listening(
    model, aux: dict, batch: AVBatch, weights: Mapping[str, float], totals: Totals | None
) -> dict[str, Array]:
    losses = {}
    known, annotated = (totals.sounds_known, totals.annotated) if totals else (None, None)
    if weights["sounds"]:
        logits = model.sound_classifier(aux["audio_features"])
        losses["sounds"] = sound_classification(
            logits, batch.sounds, batch.sounds_known, batch.valid, known
        )
    if not (weights["map"] or weights["contrast"]):
        return losses
    space = aux.get("audio_visual_map")
    if space is None:
        space = model.audio_visual_map(aux["mask_features"], aux["audio_embedding"])
    shared = (space["pixels"], space["sound"], batch.labels, batch.annotated)
    if weights["map"]:
        losses["map"] = audio_visual_map(
            *shared, scale=space["scale"], bias=space["bias"], total=annotated
        )
    if weights["contrast"]:
        losses["contrast"] = audio_visual_contrast(
            *shared, batch.sounds, batch.sounds_known, space["scale"], clip=batch.clip
        )
    return losses


def make_train_step(
    loss_fn: Callable,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    shardings: TrainState,
    trained: frozenset[str],
    *,
    joined: JoinedLeaves = ALONE,
    skip: bool = False,
    accumulate: int = 1,
    precision: str = "default",
) -> Callable[[TrainState, AVBatch, jax.Array, int], tuple[TrainState, dict[str, Array]]]:
    """The jitted, sharded step: (state, batch, key, number) -> (state, scalars).

    The state is donated. Gradients are taken for the parameters named in `trained` only: what is
    frozen costs no backward pass beyond what these need. `tx` is of the arrays that `joined` makes
    of these.

    A step whose loss, gradient or new parameters are not finite changes neither parameters nor
    optimiser, and the scalar `applied` is False; `not_finite/gradient/MODULE` and
    `not_finite/parameters/MODULE` say where. With `skip` the next step goes on. Without, the state
    stays from there on: a step has an effect only on the state of its number, that of the steps
    before it.

    `accumulate` is the number of parts of the batch whose gradients are computed one after the
    other and added up, which needs little more memory than one part and gives the same step.
    `precision`: see `multiplied_in`.
    """
    everywhere = replicated(mesh)

    @jax.jit(
        in_shardings=(shardings, batch_sharding(mesh), everywhere, everywhere),
        out_shardings=(shardings, everywhere),
        donate_argnums=0,
    )
    @multiplied_in(precision)
    def train_step(state: TrainState, batch: AVBatch, key: jax.Array, number: jax.Array):
        """See `make_train_step`."""
        key = jax.random.fold_in(key, state.step)

        def gradients(leaves, *arguments):
            def loss_of(leaves):
                return loss_fn(replace_leaves(state.params, leaves), *arguments)

            with on_mesh(mesh):
                return jax.value_and_grad(loss_of, has_aux=True)(leaves)

        leaves, _ = split_trained(state.params, trained)
        if accumulate == 1:
            (loss, parts), grads = gradients(leaves, batch, key)
        else:
            with jax.named_scope("losses"):
                totals = loss_fn.totals(batch)
            (loss, parts), grads = _added_up(
                lambda part: gradients(leaves, part, key, totals), batch, accumulate, mesh
            )
        with jax.named_scope("optimiser"):
            old, grads = joined.join(leaves), joined.join(grads)
            updates, opt_state = tx.update(grads, state.opt_state, old)
            updated = optax.apply_updates(old, updates)
        scalars = {"loss": loss, "grad_norm": optax.tree.norm(grads)} | parts
        checks = {
            f"not_finite/{what}/{module}": ~jnp.isfinite(optax.tree.norm(values))
            for what, arrays in (("gradient", grads), ("parameters", updated))
            for module, values in joined.parts(arrays).items()
        }
        finite = jnp.isfinite(loss) & ~jnp.any(jnp.stack(list(checks.values())))
        applied = finite & (state.step == number)

        def if_applied(new, old):
            return jax.tree.map(lambda x, y: jnp.where(applied, x, y), new, old)

        new = TrainState(
            step=state.step + (1 if skip else applied.astype(state.step.dtype)),
            params=replace_leaves(state.params, joined.split(if_applied(updated, old))),
            opt_state=if_applied(opt_state, state.opt_state),
        )
        return new, scalars | checks | {"applied": applied}

    return train_step


def _added_up(compute: Callable, batch: AVBatch, parts: int, mesh: Mesh):
    """Sum of what `compute` gives for each part of the batch, one after the other.

    A part has its share of the frames of every device, so that none has to move.
    """
    split = jax.tree.map(
        lambda x: x.reshape(len(x) // parts, parts, *x.shape[1:]).swapaxes(0, 1), batch
    )

    def add(total, part):
        part = jax.lax.with_sharding_constraint(part, batch_sharding(mesh))
        return jax.tree.map(jnp.add, total, compute(part)), None

    shapes = jax.eval_shape(compute, jax.tree.map(lambda x: x[0], split))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(add, zeros, split)[0]


def compile_once(step: Callable, name: str, speed: Speed | None = None) -> Callable:
    """The jitted `step`, compiled at its first call; other shapes are then an error, not a wait.

    Says in the log what a call needs: memory a device (arguments, results and temporaries, without
    what the host holds), and FLOPs, see `step_flops`; `speed` is told these, too.
    """
    compiled = None

    def call(*inputs):
        nonlocal compiled
        if compiled is None:
            start = time.perf_counter()
            traced = step.trace(*inputs)
            compiled = traced.lower().compile()
            seconds = time.perf_counter() - start
            flops = step_flops(traced, compiled)
            _LOG.info("%s: step compiled in %.0f s; %s", name, seconds, step_cost(compiled, flops))
            if speed is not None:
                speed.flops = flops
        return compiled(*inputs)

    return call


def step_cost(compiled: jax.stages.Compiled, flops: float | None) -> str:
    """Say what a call needs, as '1.23 GB a device, 456 GFLOP'; see `compile_once`."""
    memory = compiled.memory_analysis()
    size = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    size += memory.output_size_in_bytes - memory.alias_size_in_bytes
    counted = "FLOPs unknown" if flops is None else f"{flops / 1e9:.0f} GFLOP"
    return f"{size / 1e9:.2f} GB a device, {counted}"


def make_predict(
    graphdef: nnx.GraphDef,
    mesh: Mesh,
    param_shardings,
    size: int,
    dtype: str = "float32",
    precision: str = "default",
) -> Callable[[dict, AVBatch], Float[Array, "N K size size"]]:
    """The jitted prediction: (params, batch) -> class scores per pixel at `size` (method 3.5)."""

    @jax.jit(
        in_shardings=(param_shardings, batch_sharding(mesh)), out_shardings=batch_sharding(mesh)
    )
    def predict(params: dict, batch: AVBatch):
        with on_mesh(mesh):
            return class_scores(graphdef, params, batch, size, dtype, precision)

    return predict


def class_scores(
    graphdef: nnx.GraphDef,
    params: dict,
    batch: AVBatch,
    size: int,
    dtype: str,
    precision: str = "default",
) -> Float[Array, "N K size size"]:
    """Return what `make_predict` computes, as a function without devices."""

    @multiplied_in(precision)
    def scores(params: dict, batch: AVBatch):
        _, predictions, _ = _run_network(graphdef, params, batch, dtype)
        return segmentation_map(
            predictions["mask_logits"], predictions["class_logits"], batch.frames.shape[1:3], size
        )

    return scores(params, batch)


def make_mask_prompt(
    graphdef: nnx.GraphDef,
    mesh: Mesh,
    param_shardings,
    dtype: str = "float32",
    precision: str = "default",
) -> Callable[[dict, AVBatch], Float[Array, "N h w"]]:
    """The jitted mask prompt, 0..1, that the decoder gets in a prediction (method 3.6, 4.2): of
    (params, batch), for a network built with `mask_prompt`."""

    @jax.jit(
        in_shardings=(param_shardings, batch_sharding(mesh)), out_shardings=batch_sharding(mesh)
    )
    @multiplied_in(precision)
    def mask_prompt(params: dict, batch: AVBatch):
        with on_mesh(mesh):
            return _run_network(graphdef, params, batch, dtype)[2]["mask_prompt"]

    return mask_prompt
