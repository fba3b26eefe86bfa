"""config.matmul_precision reaches every product of training, prediction and kept features."""

import re

import jax
import jax.numpy as jnp
import pytest

from configs import demo
from ssp_jax.data.datasets import DataSets
from ssp_jax.dry_run import batch_shapes
from ssp_jax.errors import UserError
from ssp_jax.json_files import read_sealed, write_sealed
from ssp_jax.models.deformable_sampling import sample
from ssp_jax.run_folder import check_config, check_run, check_workdir
from ssp_jax.stage import Stage
from ssp_jax.stage_training import phase_step
from ssp_jax.start_checks import check_jax
from ssp_jax.train_state import seed_key
from ssp_jax.train_step import multiplied_in
from tests.tiny_run import get_config

_PRODUCT = re.compile(r"stablehlo\.(?:dot_general|convolution).*")
_PRECISION = re.compile(r"precision(?:_config)? = \[(?:#stablehlo<precision )?(\w+)")


def _stage(precision, tmp_path):
    config = get_config()
    config.matmul_precision = precision
    data = DataSets({}, ("background", "dog"), ("dog",))
    return Stage(config, "avs", data, tmp_path)


def _programs(stage):
    """What trains and what predicts, as text."""
    (phase,) = stage.phases
    shapes, key = phase.states.shapes, jax.eval_shape(lambda: seed_key(0))
    number = jax.ShapeDtypeStruct((), jnp.int32)
    train = phase_step(stage, phase).lower(shapes, batch_shapes(stage, phase), key, number)
    return train.as_text(), stage.predict.lower(shapes.params, batch_shapes(stage)).as_text()


def _precisions(program):
    return [_PRECISION.findall(line)[0] for line in _PRODUCT.findall(program)]


def test_every_product_of_a_step_and_a_prediction_has_it(tmp_path):
    for program in _programs(_stage("highest", tmp_path)):
        found = _precisions(program)
        assert len(found) > 30
        assert set(found) == {"HIGHEST"}


def test_without_it_products_are_as_jax_has_them(tmp_path):
    train, predict = _programs(_stage("default", tmp_path))
    # Some ask for more whatever the config says: resizing, the costs of the matching.
    for program in (train, predict):
        assert {"DEFAULT", "HIGHEST"} == set(_precisions(program))


@pytest.mark.parametrize("way", ["auto", "kernel"])
def test_it_reaches_what_is_traced_where_a_program_is_lowered(way):
    sizes, heads = ((2, 3), (4, 5)), (1, 2)
    shapes = ((*heads, 26, 3), (*heads, 2, 4, 2, 6), (*heads, 2, 4, 6))
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

    def gradients(*arrays):
        summed = jax.value_and_grad(lambda *x: sample(way, sizes, *x).sum(), (0, 1, 2))
        return summed(*arrays)

    for precision in ("highest", "default"):
        # A GPU samples so small a map by products, and computes a TPU's kernel step by step.
        traced = jax.jit(multiplied_in(precision)(gradients)).trace(*arrays)
        found = _precisions(traced.lower(lowering_platforms=("cuda",)).as_text())
        assert set(found) == {precision.upper()}


def test_an_unknown_word_is_refused():
    config = demo.get_config()
    config.matmul_precision = "exact"
    with pytest.raises(UserError, match=r"config\.matmul_precision='exact': expected default"):
        check_config(config)
    for word in ("high", "tensorfloat32", "BF16_BF16_F32_X3"):
        config.matmul_precision = word
        check_config(config)


def test_the_variable_of_jax_has_to_agree():
    config = demo.get_config()
    with jax.default_matmul_precision("highest"):
        with pytest.raises(UserError, match="JAX_DEFAULT_MATMUL_PRECISION=highest, but"):
            check_jax(config)
        config.matmul_precision = "highest"
        check_jax(config)


def test_a_run_of_before_goes_on_as_it_was(tmp_path):
    config = demo.get_config()
    check_workdir(config, tmp_path)
    old = read_sealed(tmp_path / "config.json", "")
    del old["matmul_precision"]
    write_sealed(tmp_path / "config.json", old)
    check_run(config, tmp_path)
    config.matmul_precision = "highest"
    with pytest.raises(UserError, match="matmul_precision: 'default' there, 'highest' now"):
        check_run(config, tmp_path)
