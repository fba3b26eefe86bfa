"""Conversion by table: names and layouts of another project's arrays, read in both directions."""

import functools
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ssp_jax.errors import UserError

Arrays = Mapping[str, np.ndarray]
_FITS = 10  # problems of one kind that are written out


class Transform(NamedTuple):
    """A change of layout and its inverse: moves numbers, computes none."""

    forward: Callable[[np.ndarray], np.ndarray]
    backward: Callable[[np.ndarray], np.ndarray]


def _to_patches(weight: np.ndarray) -> np.ndarray:
    return weight.transpose(2, 3, 1, 0).reshape(-1, weight.shape[0])


def _from_patches(kernel: np.ndarray) -> np.ndarray:
    side = math.isqrt(kernel.shape[0] // 3)
    return kernel.reshape(side, side, 3, -1).transpose(3, 2, 0, 1)


SAME = Transform(np.asarray, np.asarray)
# PyTorch's (out, in) to (in, out).
LINEAR = Transform(np.transpose, np.transpose)
# A 1x1 convolution (out, in, 1, 1) to a linear layer's (in, out).
POINTWISE = Transform(lambda w: w[:, :, 0, 0].T, lambda k: k.T[:, :, None, None])
# (out, in, height, width) to (height, width, in, out).
CONVOLUTION = Transform(lambda w: w.transpose(2, 3, 1, 0), lambda k: k.transpose(3, 2, 0, 1))
# A convolution of stride = size on RGB to a linear layer on flat patches (row, column, colour).
PATCHES = Transform(_to_patches, _from_patches)


class Share(NamedTuple):
    """Piece `index` of `count` equal ones along `axis`."""

    index: int = 0
    count: int = 1
    axis: int = 0

    def of(self, array: np.ndarray) -> np.ndarray:
        """This piece of the whole. ValueError: it does not divide."""
        return np.split(array, self.count, self.axis)[self.index] if self.count > 1 else array


class Rule(NamedTuple):
    """Where an array goes, and back.

    Attributes:
      source, target: name in the source, path of the parameter; '{0}', '{1}' in both stand for
        numbers.
      transform: from the source's layout to ours.
      target_share: the piece of the parameter that this source makes up (query, key and value in
        one matrix).
      source_share: the piece of the source that goes there (a stacked matrix taken apart).
    """

    source: str
    target: str
    transform: Transform = SAME
    target_share: Share = Share()
    source_share: Share = Share()


def affine(source: str, target: str, kernel: Transform = LINEAR, **shares: Share) -> list[Rule]:
    """A layer with a weight and (perhaps) a bias."""
    return [
        Rule(source + ".weight", target + "/kernel", kernel, **shares),
        Rule(source + ".bias", target + "/bias", **shares),
    ]


def norm(source: str, target: str) -> list[Rule]:
    """A normalisation's scale and bias."""
    return [
        Rule(source + ".weight", target + "/scale"),
        Rule(source + ".bias", target + "/bias"),
    ]


@functools.lru_cache(maxsize=4096)
def _pattern(template: str) -> re.Pattern:
    return re.compile(re.sub(r"\\\{(\d)\\\}", r"(?P<n\1>\\d+)", re.escape(template)))


def _renamed(name: str, source: str, target: str) -> str | None:
    """`name`, an instance of the template `source`, as an instance of `target`."""
    match = _pattern(source).fullmatch(name)
    return match and target.format(*(match[f"n{i}"] for i in range(_pattern(source).groups)))


def _fitting(rules: Sequence[Rule], name: str, *, backward: bool = False) -> list[tuple[Rule, str]]:
    """The rules for a source's name (backward: for a path), each with what it becomes."""
    found = []
    for rule in rules:
        ends = (rule.target, rule.source) if backward else (rule.source, rule.target)
        if (renamed := _renamed(name, *ends)) is not None:
            found.append((rule, renamed))
    return found


def is_one_of(name: str, templates: Iterable[str]) -> bool:
    """Tell whether a template ('layers.{0}.bias') fits the name."""
    return any(_pattern(template).fullmatch(name) for template in templates)


def to_params(
    state: Arrays,
    rules: Sequence[Rule],
    wanted: Mapping[str, tuple[int, ...]],
    *,
    accounted: Iterable[str] = (),
    what: str,
    hint: str,
) -> dict[str, np.ndarray]:
    """Parameters from a source's arrays: every one of both sides is accounted for.

    Args:
      state: arrays by the source's names.
      wanted: shapes of the parameters to fill, by path.
      accounted: templates of source names that the parameters need not hold.
      what: the source, for messages. hint: what to do if it does not fit.

    Returns:
      float32 arrays of the wanted shapes by path.

    Raises:
      UserError: names without a rule, parameters without a source, shapes that differ, values that
        are not finite: all of them, in one message.
    """
    found: dict[str, dict[Share, tuple[Rule, np.ndarray]]] = defaultdict(dict)
    problems = []
    for key, value in state.items():
        if is_one_of(key, accounted):
            continue
        fitting = _fitting(rules, key)
        if not fitting:
            problems.append((key, f"not a name of {what}"))
        for rule, path in fitting:
            if path not in wanted:
                problems.append((key, f"the model has no {path} to hold it"))
            if rule.target_share in found[path]:
                problems.append((path, "two sources"))
            found[path][rule.target_share] = rule, value
    params = {}
    for path, shape in wanted.items():
        try:
            params[path] = _joined(found.get(path, {}), path, rules, shape)
        except (ValueError, IndexError) as error:
            problems.append((path, str(error)))
    if problems:
        raise UserError(hint + "\n  " + "\n  ".join(_brief(problems)))
    return params


def _joined(found, path: str, rules: Sequence[Rule], shape: tuple[int, ...]) -> np.ndarray:
    shares = {rule.target_share: rule.source for rule, _ in _fitting(rules, path, backward=True)}
    missing = [source for share, source in sorted(shares.items()) if share not in found]
    if missing or not shares:
        raise ValueError(f"no weights for it ({', '.join(missing) or 'no rule'})")
    pieces = []
    for share in sorted(shares):
        rule, value = found[share]
        if value.dtype.kind != "f":
            raise ValueError(f"holds {value.dtype}, expected floating-point numbers")
        pieces.append(rule.transform.forward(rule.source_share.of(value)))
    value = np.concatenate(pieces, axis=share.axis) if len(pieces) > 1 else pieces[0]
    if value.shape != shape:
        raise ValueError(f"has shape {value.shape}, the model needs {shape}")
    value = np.ascontiguousarray(value, dtype=np.float32)
    if not np.isfinite(value).all():
        raise ValueError("has values that are not finite")
    return value


def to_source(params: Arrays, rules: Sequence[Rule], *, what: str) -> dict[str, np.ndarray]:
    """The inverse of `to_params`: arrays under the source's names and in its layout.

    Gradients of parameters are turned into gradients of the source's arrays just so.

    Raises:
      UserError: parameters that the source has no place for, or arrays of the source of which a
        piece is missing: all of them, in one message.
    """
    found: dict[str, dict[Share, np.ndarray]] = defaultdict(dict)
    problems = []
    for path, value in params.items():
        fitting = _fitting(rules, path, backward=True)
        if not fitting:
            problems.append((path, f"{what} has no place for it"))
        for rule, name in fitting:
            try:
                piece = rule.transform.backward(rule.target_share.of(np.asarray(value)))
            except (ValueError, IndexError) as error:
                problems.append((path, str(error)))
            else:
                found[name][rule.source_share] = piece
    state = {}
    for name, pieces in found.items():
        shares = sorted(pieces)
        if len(shares) < shares[0].count:
            problems.append((name, f"{len(shares)} of its {shares[0].count} pieces are there"))
            continue
        whole = [pieces[share] for share in shares]
        whole = np.concatenate(whole, axis=shares[0].axis) if len(whole) > 1 else whole[0]
        state[name] = np.ascontiguousarray(whole)
    if problems:
        raise UserError(f"{what} cannot hold these parameters:\n  " + "\n  ".join(_brief(problems)))
    return state


def _brief(problems: Sequence[tuple[str, str]]) -> list[str]:
    """One line each; of names that differ in numbers only, with the same trouble, a few."""
    kinds = defaultdict(list)
    for name, trouble in problems:
        kinds[re.sub(r"\d+", "#", f"{name} {trouble}")].append(f"{name}: {trouble}")
    lines = []
    for same in kinds.values():
        lines += same[:_FITS]
        if len(same) > _FITS:
            lines.append(f"  and {len(same) - _FITS} more such names")
    return lines
