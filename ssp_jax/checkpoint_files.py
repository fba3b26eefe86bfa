"""One checkpoint on disk: what it holds, and whether that is what was written and what is wanted.

Beside its arrays (item `state` or `params`) each has an item `data`: a sealed JSON object with the
list of the arrays and their checksums; neither a flipped bit nor a lost file need show otherwise.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from ssp_jax.checksums import array_checksums
from ssp_jax.errors import UserError
from ssp_jax.json_files import is_sealed, seal
from ssp_jax.train_state import path_name

_LIST = "arrays"


class Damaged(Exception):
    """A checkpoint that is not as it was written."""


def open_manager(folder: Path, name: str, **options) -> ocp.CheckpointManager:
    """Open checkpoints whose arrays have this name; options of `CheckpointManagerOptions`."""
    handlers = {name: ocp.StandardCheckpointHandler(), "data": ocp.JsonCheckpointHandler()}
    options = ocp.CheckpointManagerOptions(**options)
    return ocp.CheckpointManager(folder, item_handlers=handlers, options=options)


def items(name: str, tree: Any, facts: Mapping[str, Any]) -> ocp.args.Composite:
    """Return what to save of the arrays, under this name, and of further JSON facts."""
    data = seal({**facts, _LIST: _listed(tree, array_checksums(tree))})
    return ocp.args.Composite(
        **{name: ocp.args.StandardSave(tree), "data": ocp.args.JsonSave(data)}
    )


def read(
    manager: ocp.CheckpointManager, step: int, name: str, like: Any, shardings: Any
) -> tuple[Any, dict[str, Any]]:
    """(arrays as in `like`, facts) of a checkpoint.

    Raises:
      UserError: it has other arrays than `like`.
      Damaged: it is not as it was written; in all processes alike.
    """
    error, tree, facts = None, None, {}
    try:
        facts = read_facts(manager, step)
        stored = facts.get(_LIST) or _listed(_metadata(manager, step, name))
        _check_same(f"{manager.directory}/{step}", stored, _listed(like))
        target = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), like, shardings
        )
        tree = _restore(manager, step, name, ocp.args.StandardRestore(target))
        _check_sums(facts, array_checksums(tree))
    except Damaged as caught:
        error = caught
    if not np.all(multihost_utils.process_allgather(np.array(error is None))):
        raise error or Damaged("another process cannot read it")
    return tree, facts


def read_on_host(manager: ocp.CheckpointManager, step: int, name: str) -> dict[str, np.ndarray]:
    """The arrays by path name, without the devices that wrote them.

    Raises:
      Damaged: it is not as it was written.
    """
    facts, stored = read_facts(manager, step), _metadata(manager, step, name)
    try:
        target = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), stored)
    except (MemoryError, ValueError, TypeError) as error:
        raise Damaged(first_line(error)) from error
    tree = _restore(manager, step, name, ocp.args.StandardRestore(target))
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    arrays = {path_name(path): np.asarray(leaf) for path, leaf in leaves}
    _check_sums(facts, array_checksums(tree))
    return arrays


def stored_shapes(
    manager: ocp.CheckpointManager, step: int, name: str
) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays of a checkpoint by path name, without reading them.

    Raises:
      Damaged: it is not as it was written.
    """
    stored = read_facts(manager, step).get(_LIST) or _listed(_metadata(manager, step, name))
    return {path: tuple(entry[1]) for path, entry in stored.items()}


def read_facts(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    """Return what was saved beside the arrays; nothing for best parameters of older code.

    Raises:
      Damaged: it is not as it was written.
    """
    folder = manager.directory / str(step)
    if (folder / "metrics").exists() and not (folder / "data").exists():
        return {}
    facts = _restore(manager, step, "data", ocp.args.JsonRestore())
    if not isinstance(facts, dict) or (_LIST in facts and not is_sealed(facts)):
        raise Damaged("its data state is not as it was written")
    return facts


def shown(names: Iterable[str], at_most: int = 5) -> str:
    """Names in a message, layers of one kind as one: a missing part is one fact, not eighteen."""
    kinds = Counter(re.sub(r"/\d+(?=/|$)", "/*", name) for name in sorted(names))
    texts = [f"{k} ({n} of them)" if n > 1 else k for k, n in kinds.items()]
    more = [f"{len(texts) - at_most} more"] if len(texts) > at_most else []
    return ", ".join([*texts[:at_most], *more])


def first_line(error: Exception) -> str:
    """Return what an error says, short; its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _metadata(manager: ocp.CheckpointManager, step: int, name: str) -> Any:
    try:
        return manager.item_metadata(step)[name].tree
    except Exception as error:
        raise Damaged(first_line(error)) from error


def _restore(manager: ocp.CheckpointManager, step: int, name: str, args: Any) -> Any:
    try:
        return manager.restore(step, args=ocp.args.Composite(**{name: args}))[name]
    # A damaged file can make orbax and tensorstore raise anything.
    except Exception as error:
        raise Damaged(first_line(error)) from error


def _listed(tree: Any, sums: Mapping[str, str] | None = None) -> dict[str, list]:
    """Path name -> [dtype, shape] and the checksum, where given."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {path_name(path): [str(leaf.dtype), list(leaf.shape)] for path, leaf in leaves}
    return named if sums is None else {name: [*v, sums[name]] for name, v in named.items()}


def _check_sums(facts: Mapping[str, Any], sums: Mapping[str, str]) -> None:
    known = {name: entry[2] for name, entry in facts.get(_LIST, {}).items()}
    if changed := [name for name in known if sums.get(name) != known[name]]:
        raise Damaged(f"other values than were written in {shown(changed)}")


def _check_same(where: str, stored: Mapping[str, list], wanted: Mapping[str, list]) -> None:
    """Raises UserError where the arrays stored are not those that this code and config have."""
    kinds = {
        "missing there": wanted.keys() - stored.keys(),
        "not known here": stored.keys() - wanted.keys(),
    }
    for name in wanted.keys() & stored.keys():
        one, other = ("{} {}".format(*x[name][:2]) for x in (stored, wanted))
        if one != other:
            kinds.setdefault(f"{one} there, {other} here", set()).add(name)
    if lines := [f"  {kind}: {shown(names)}" for kind, names in kinds.items() if names]:
        raise UserError(
            f"{where}: of another config or another version of the code:\n"
            + "\n".join(lines)
            + "\nUse those that it was made with, or another --workdir; a stage's init_from can "
            "start that from the best parameters here"
        )
