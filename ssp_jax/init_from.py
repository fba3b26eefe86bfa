"""Starting weights: from a folder of `ssp_jax.weights import`, or from another stage or run."""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ssp_jax.checkpoints import read_best
from ssp_jax.errors import UserError
from ssp_jax.run_folder import STAGES
from ssp_jax.train_state import StateMaker, path_name, replace_leaves
from ssp_jax.weights.folder import is_weight_folder, load_weights

_LOG = logging.getLogger(__name__)


def is_trained(folder: Path) -> bool:
    """Whether a stage's folder has parameters: checkpoints, or weights of `ssp_jax.hub`."""
    return (folder / "checkpoints").is_dir() or is_weight_folder(folder)


def read_weights(folder: Path) -> dict[str, np.ndarray]:
    """Parameters by path name of a weight folder, a stage's folder or a run's folder.

    Raises:
      UserError: none of these is there, or a run with both stages.
    """
    if is_weight_folder(folder):
        return load_weights(folder)
    places = (folder, *(folder / stage for stage in STAGES))
    trained = [place for place in places if is_trained(place)]
    if len(trained) == 1 and is_weight_folder(trained[0]):
        return load_weights(trained[0])
    if len(trained) == 1:
        return read_best(trained[0] / "checkpoints")
    if trained:
        raise UserError(
            f"{folder}: a run with several stages; name one of {', '.join(map(str, trained))}"
        )
    raise UserError(
        f"{folder}: no weights to start from; expected a folder made by python -m ssp_jax.weights "
        "import, or the folder of a trained stage"
    )


def given_params(
    config: ConfigDict, name: str, folder: Path, states: StateMaker, key: jax.Array
) -> dict | None:
    """What `config.<name>.init_from` names, see `initial_params`; None where it names nothing.

    Args:
      folder: of the stage `name`; other stages are beside it.
      states, key: what starts anew is drawn from.
    """
    stage, stages = config[name], {stage: folder.parent / stage for stage in STAGES}
    stages["avs"] = Path(stage.prompt.stage1 or stages["avs"])
    words = [word.strip() for word in (stage.init_from or config.init_from).split(",")]
    folders = [stages.get(word) or Path(word) for word in words if word]
    if not folders:
        return None
    shapes, shardings = states.shapes.params, states.shardings.params
    params, new, unused = initial_params(folders, shapes, shardings, tuple(stage.init_new))
    if new:
        params = replace_leaves(params, states.drawn(key, new))
    _LOG.info(
        "%s: starts from %s\n  new: %s\n  left behind: %s",
        *(name, ", ".join(map(str, folders)), _shown(new), _shown(unused)),
    )
    return params


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
    found: dict[str, list[np.ndarray]] = {}  # the last folder's first
    for folder in reversed(folders):
        for name, array in read_weights(folder).items():
            found.setdefault(name, []).append(array)
    anew, problems, taken = [], [], set()

    def pick(path, leaf, sharding):
        name = path_name(path)
        sources = found.get(name, ())
        for source in sources:
            if source.shape == leaf.shape:
                taken.add(name)
                return jax.device_put(np.asarray(source, leaf.dtype), sharding)
        anew.append(name)
        if not any(re.search(pattern, name) for pattern in new or ()):
            state = f"{sources[0].shape} there, {leaf.shape} here" if sources else "missing"
            problems.append((name, state))
        return leaf

    params = jax.tree_util.tree_map_with_path(pick, like, shardings)
    if problems:
        trained = new is not None
        raise UserError(_message(folders, problems, len(jax.tree.leaves(like)), trained))
    return params, anew, sorted(found.keys() - taken)


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
