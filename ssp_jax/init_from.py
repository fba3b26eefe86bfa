"""Starting weights: from a folder of `ssp_jax.weights import`, or from another stage or run."""

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ssp_jax.checkpoints import best_shapes, has_begun, read_best
from ssp_jax.errors import UserError
from ssp_jax.places import run_path
from ssp_jax.run_folder import STAGES
from ssp_jax.train_state import StateMaker, named_leaves, path_name, replace_leaves
from ssp_jax.weights.folder import is_weight_folder, load_weights, weight_shapes

_LOG = logging.getLogger(__name__)


def is_trained(folder: Path) -> bool:
    """Tell whether a stage's folder has parameters: checkpoints, or weights of `ssp_jax.hub`."""
    return (folder / "checkpoints").is_dir() or is_weight_folder(folder)


def read_weights(folder: Path) -> dict[str, np.ndarray]:
    """Parameters by path name of a weight folder, a stage's folder or a run's folder.

    Raises:
      UserError: none of these is there, or a run with both stages.
    """
    place = _place(folder)
    return load_weights(place) if is_weight_folder(place) else read_best(place / "checkpoints")


def _shapes_in(folder: Path) -> dict[str, tuple[int, ...]]:
    place = _place(folder)
    return weight_shapes(place) if is_weight_folder(place) else best_shapes(place / "checkpoints")


def _place(folder: Path) -> Path:
    """Return the folder of weights, or the one of a trained stage, that is meant."""
    if is_weight_folder(folder):
        return folder
    places = (folder, *(folder / stage for stage in STAGES))
    trained = [place for place in places if is_trained(place)]
    if len(trained) == 1:
        return trained[0]
    if trained:
        raise UserError(
            f"{folder}: a run with several stages; name one of {', '.join(map(str, trained))}"
        )
    raise UserError(
        f"{folder}: no weights to start from; expected a folder made by python -m ssp_jax.weights "
        "import, or the folder of a trained stage"
    )


def starting_weights(config: ConfigDict, name: str) -> str:
    """Return what a stage starts from as the config has it: words and folders, commas between.

    '' where it starts from scratch.
    """
    return config[name].init_from or config.init_from


def given_params(
    config: ConfigDict, name: str, folder: Path, states: StateMaker, key: jax.Array
) -> dict | None:
    """Load what `config.<name>.init_from` names, see `initial_params`; None where it is empty.

    Args:
      folder: of the stage `name`; other stages are beside it.
      states, key: what starts anew is drawn from.
    """
    folders = [place for _, place in _named(config, name, folder)]
    if not folders:
        return None
    shapes, shardings = states.shapes.params, states.shardings.params
    anew = tuple(config[name].init_new)
    params, new, unused = initial_params(folders, shapes, shardings, anew)
    if new:
        params = replace_leaves(params, states.drawn(key, new))
    _LOG.info(
        "%s: starts from %s\n  new: %s\n  left behind: %s",
        *(name, ", ".join(map(str, folders)), _shown(new), _shown(unused)),
    )
    return params


def check_init_from(
    config: ConfigDict, name: str, folder: Path, like: dict, trained_here: Mapping[str, dict]
) -> None:
    """Refuse what `given_params` would, by names and shapes alone; no array is read.

    Nothing is asked of a stage that has begun, nor of one that starts from scratch.

    Args:
      folder: of the stage `name`. like: shapes of its parameters.
      trained_here: those of the stages that the run trains, by name, which need not be there yet.

    Raises:
      UserError: see `read_weights`, `initial_params`.
    """
    if has_begun(folder / "checkpoints"):
        return
    key = f"config.{name}.init_from" if config[name].init_from else "config.init_from"
    named, shapes = _named(config, name, folder), []
    for word, place in named:
        if word in trained_here and place == folder.parent / word:
            leaves = named_leaves(trained_here[word])
            shapes.append({path: tuple(leaf.shape) for path, leaf in leaves})
            continue
        try:
            shapes.append(_shapes_in(place))
        except UserError as error:
            raise UserError(f"{key}: {error}") from error
    if named:
        _match([place for _, place in named], shapes, like, tuple(config[name].init_new))


def _named(config: ConfigDict, name: str, folder: Path) -> list[tuple[str, Path]]:
    """Return the words of `init_from` of a stage, and the folders that they stand for."""
    stage, stages = config[name], {stage: folder.parent / stage for stage in STAGES}
    stages["avs"] = run_path(stage.prompt.stage1 or stages["avs"])
    words = [word.strip() for word in starting_weights(config, name).split(",")]
    return [(word, stages.get(word) or run_path(word)) for word in words if word]


def initial_params(
    folders: Sequence[Path], like: dict, shardings: Any, new: Sequence[str] | None
) -> tuple[dict, list[str], list[str]]:
    """`like` with its leaves taken from the folders: of the last that has one of its shape.

    Args:
      like: the model's parameters, or their shapes; kept where `new` allows it.
      new: regexes on the paths of parameters that may start anew where no folder has them in the
        model's shape (class heads, say); None where nothing is to be trained, and the folders must
        have all.

    Returns:
      The parameters, the names that start anew, and the names that the folders hold in vain.

    Raises:
      UserError: parameters without a source that are not `new`: all of them, in one message.
    """
    found = [read_weights(folder) for folder in folders]
    shapes = [{name: array.shape for name, array in arrays.items()} for arrays in found]
    sources, anew = _match(folders, shapes, like, new)

    def pick(path, leaf, sharding):
        name = path_name(path)
        if name not in sources:
            return leaf
        return jax.device_put(np.asarray(found[sources[name]][name], leaf.dtype), sharding)

    params = jax.tree_util.tree_map_with_path(pick, like, shardings)
    return params, anew, sorted({name for arrays in found for name in arrays} - sources.keys())


def _match(
    folders: Sequence[Path],
    shapes: Sequence[Mapping[str, tuple[int, ...]]],
    like: dict,
    new: Sequence[str] | None,
) -> tuple[dict[str, int], list[str]]:
    """Find a source for every parameter of `like`, see `initial_params`.

    Args:
      shapes: what each of the folders holds.

    Returns:
      Name -> number of the folder, and the names that start anew.
    """
    sources, anew, problems = {}, [], []
    for name, leaf in named_leaves(like):
        having = [number for number, there in enumerate(shapes) if name in there]
        fitting = [number for number in having if shapes[number][name] == leaf.shape]
        if fitting:
            sources[name] = fitting[-1]
            continue
        anew.append(name)
        if not any(re.search(pattern, name) for pattern in new or ()):
            there = f"{shapes[having[-1]][name]} there, {leaf.shape} here" if having else "missing"
            problems.append((name, there))
    if problems:
        trained = new is not None
        raise UserError(_message(folders, problems, len(jax.tree.leaves(like)), trained))
    return sources, anew


def _message(
    folders: Sequence[Path], problems: list[tuple[str, str]], total: int, trained: bool
) -> str:
    # Layers of one kind in one line: a missing audio encoder is one fact, not eighteen.
    kinds = Counter((re.sub(r"/\d+/", "/*/", name), state) for name, state in problems)
    lines = [
        f"  {name}: {state}" + (f" ({number} of them)" if number > 1 else "")
        for (name, state), number in kinds.items()
    ]
    new = ", or let them start anew by naming them in init_new" if trained else ""
    return (
        f"{'init_from=' if trained else ''}{','.join(map(str, folders))}: {len(problems)} of the "
        f"model's {total} parameters are not there. Add the folder that has them (separated by a "
        f"comma), or give the model the same size{new}:\n" + "\n".join(lines)
    )


def _shown(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if names[6:] else "") or "nothing"
