"""A choice that is made where a program is lowered, between functions that nobody else traces.

`jax.lax.platform_dependent` traces every way for every program, and in a function that is exported
for several platforms lowers every way for all of them, which a kernel of one platform refuses.
"""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import mlir

# {platform or "default": way}
Ways = dict[str, Callable[..., Any]]


class ByPlatform:
    """A function of arrays with a way for each platform.

    A way is traced where the program is lowered, but its products have the precision that is the
    default where the function is called (`jax.default_matmul_precision`), as all others there.

    Args:
      name: of the operation, in programs that are printed.
      ways: of a setting, {platform or 'default': function of the arrays}.
      results: of (setting, arrays), the results' shapes and dtypes.
    """

    def __init__(
        self,
        name: str,
        ways: Callable[[Hashable], Ways],
        results: Callable[..., list[jax.ShapeDtypeStruct]],
    ):
        self._primitive = Primitive(name)
        self._primitive.multiple_results = True
        self._primitive.def_impl(self._run)
        self._primitive.def_abstract_eval(
            lambda *arrays, setting, precision: [
                jax.core.ShapedArray(x.shape, x.dtype) for x in results(setting, *arrays)
            ]
        )
        for platform in ("cpu", "cuda", "rocm", "tpu"):

            def lowered(*arrays, setting, precision, platform=platform):
                found = ways(setting)
                with jax.default_matmul_precision(precision):
                    return found.get(platform, found["default"])(*arrays)

            mlir.register_lowering(self._primitive, mlir.lower_fun(lowered), platform=platform)

    def __call__(self, setting: Hashable, *arrays: jax.Array) -> list[jax.Array]:
        """The results as a list."""
        precision = jax.config.jax_default_matmul_precision
        return self._primitive.bind(*arrays, setting=setting, precision=precision)

    def _run(self, *arrays, setting, precision):
        with jax.default_matmul_precision(precision):
            return jax.jit(functools.partial(self, setting))(*arrays)
