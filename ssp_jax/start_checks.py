"""What a run refuses before its first step, and a dry run in the same words."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from ssp_jax.checkpoints import has_begun
from ssp_jax.config import matmul_precision
from ssp_jax.data.companions import check_inputs
from ssp_jax.errors import UserError
from ssp_jax.evaluation_folder import EVALUATION
from ssp_jax.files import check_writable
from ssp_jax.init_from import check_init_from
from ssp_jax.mask_prompts import masks_folder
from ssp_jax.phases import reads_texts
from ssp_jax.run_folder import stage_names
from ssp_jax.sharding import check_batch_size, make_mesh
from ssp_jax.stage import Stage
from ssp_jax.stage_training import check_trained
from tfds_builders.prepare import GENERATED


def check_jax(config: ConfigDict) -> None:
    """Refuse settings of JAX under which nothing here was meant to run.

    Raises:
      UserError: numbers would have 64 bits, or products another precision than the config says.
    """
    wanted, given = matmul_precision(config), jax.config.jax_default_matmul_precision
    if given not in (None, wanted):
        raise UserError(
            f"JAX_DEFAULT_MATMUL_PRECISION={given}, but config.matmul_precision={wanted}: a run "
            "keeps this in its config, so that whoever goes on with it or predicts computes alike. "
            f"Unset that variable, and give --config.matmul_precision={given} if it is meant"
        )
    if jax.config.jax_enable_x64:
        raise UserError(
            "JAX_ENABLE_X64=1: a training here computes in float32 (or config.dtype=bfloat16), and "
            "its checkpoints are of these. Unset that variable (JAX_ENABLE_X64=0)"
        )


def check_no_evaluation(workdir: Path) -> None:
    """Refuse to train into the folder of `python -m ssp_jax.evaluate`.

    Raises:
      UserError: it is one.
    """
    if (workdir / EVALUATION).exists():
        raise UserError(
            f"--workdir={workdir}: holds scores of python -m ssp_jax.evaluate. Train into another"
        )


def check_before_data(config: ConfigDict, names: Sequence[str], benchmarks: Sequence[str]) -> None:
    """Look at all that can be judged before any data are prepared, besides the config itself.

    Args:
      names: of the stages that the run needs. benchmarks: that they read.

    Raises:
      UserError: the devices cannot share the batches, data without what a stage needs, a file that
        the config names is missing or of no use.
    """
    mesh = make_mesh(**config.mesh.to_dict())
    for name in names:
        _check_batches(config, name, mesh)
    if "objects" in names and (others := sorted(set(benchmarks) - GENERATED)):
        raise UserError(
            f"config.stages: stage objects learns from maps of all that is visible, which only "
            f"the built-in benchmark has, not {', '.join(others)}. Leave it out"
        )
    stages = [config[name] for name in names]
    check_inputs(
        config,
        flow=any(s.prompt.premask or s.criterion.post_mask != "none" for s in stages),
        texts=any(reads_texts(config, name) for name in names),
    )


def _check_batches(config: ConfigDict, name: str, mesh: jax.sharding.Mesh) -> None:
    size, parts = config[name].batch_size, config[name].accumulate
    check_batch_size(size, mesh, f"config.{name}.batch_size")
    key = f"config.{name}.accumulate={parts}"
    if parts > 1 and size % (parts * mesh.size):
        raise UserError(
            f"{key}: {size} frames (config.{name}.batch_size) cannot be cut into so many equal "
            f"parts, each over {mesh.size} devices"
        )
    if parts > 1 and config[name].listen.contrast:
        raise UserError(
            f"{key}: config.{name}.listen.contrast={config[name].listen.contrast} compares all "
            "frames of a batch. Set it to 0, or accumulate to 1"
        )


def check_beginnings(config: ConfigDict, stages: Mapping[str, Stage]) -> None:
    """Look whether every stage that has to be trained finds what it starts from.

    Reads the names and shapes of given weights, not the arrays.

    Raises:
      UserError: see `check_init_from`, `check_trained`; the first stage's masks cannot be written.
    """
    names = stage_names(config)
    trained_here = {name: stages[name].phases[-1].states.shapes.params for name in names}
    for name in names:
        stage = stages[name]
        prompted = stage.stage.prompt.source == "stage1"
        if prompted and "avs" not in names:
            check_trained(stages["avs"])
        shapes = stage.phases[0].states.shapes.params
        check_init_from(config, name, stage.folder, shapes, trained_here)
        if prompted and not has_begun(stage.folder / "checkpoints"):
            masks = masks_folder(config)
            check_writable(masks, f"{masks}, where the masks of stage avs go,")
