"""Numbers of parameters of a model, part by part."""

from collections.abc import Mapping

import jax

from ssp_jax.train_state import path_name


def parameter_table(params: Mapping, trained: Mapping[str, frozenset[str]]) -> str:
    """Lines 'part, parameters, of them trained in each phase', in millions, and their sum.

    Args:
      params: `TrainedNetwork`'s, arrays or shapes.
      trained: path names that train, by phase.
    """
    counts: dict[str, dict[str, int]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = path_name(path)
        part = name.removeprefix("network/").split("/")[0]
        for row in (part, "all"):
            cells = counts.setdefault(row, dict.fromkeys(("parameters", *trained), 0))
            cells["parameters"] += leaf.size
            for phase, names in trained.items():
                cells[phase] += leaf.size * (name in names)
    counts["all"] = counts.pop("all")
    header = f"  {'M parameters':<20}" + "".join(f"{key:>12}" for key in counts["all"])
    rows = [
        f"  {part:<20}" + "".join(f"{value / 1e6:12.2f}" for value in cells.values())
        for part, cells in counts.items()
    ]
    return "\n".join([header, *rows])
