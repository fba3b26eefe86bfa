"""Values of a config that no run can have, whatever its data."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from ssp_jax.errors import UserError

_MANY = 2**31 - 1
# (regex on the key, lowest, highest) of its numbers; the first that fits decides.
_RANGES = (
    (r"log_every", 1, _MANY),
    (r"profile\.steps", 0, _MANY),
    (r"profile\.start", 1, _MANY),
    (r"\w+\.(batch_size|steps|eval_every|accumulate|num_queries|max_targets)", 1, _MANY),
    (r"\w+\.criterion\.num_points", 1, _MANY),
    (r"\w+\.(optim|phase[12])\.lr", 1e-12, 1e3),
    (r"\w+\.optim\.b[12]", 0, 1 - 1e-9),
    (r"\w+\.optim\.final_share|texts\.noise", 0, 1),
    (r"mesh\.fsdp", 1, _MANY),
    (r"data\.(stored_size|frame_size)", 0, 2**14),
    (r"flow\.size", 16, 2**14),
    (r"data\.num_workers", 0, 2**10),
    (r"texts\.max_length", 4, 2**14),
    (r"model\.audio_width", 1 / 64, 16),
    (r"model\.(\w+_layers|depths)", 1, 2**8),
    (r"model\.bert_vocabulary", 1, 2**24),
    (r"model\..*", 1, 2**14),
    (r".*", 0, _MANY),
)
# (regex on the key, number of its elements, their type, in words) of tuples of a fixed length.
_TUPLES = (
    (r"model\.(depths|swin_heads)", 4, int, "four whole numbers, as (1, 1, 2, 1)"),
    (r"data\.augment\.scale", 2, int | float, "two numbers, as (0.8, 1.25)"),
)
_REGEXES = re.compile(r"\w+\.(init_new|optim\.muon_on)")
_RATES = re.compile(r"\w+\.(optim|phase[12])\.rates")


def check_ranges(config: ConfigDict) -> None:
    """Numbers within their ranges, tuples of the right elements, regexes that can be read.

    Raises:
      UserError: some are not; names all of them.
    """
    problems = [
        f"config.{key}={value!r}: {problem}"
        for key, value in flat(config.to_dict()).items()
        if (problem := _problem(key, value))
    ]
    if problems:
        raise UserError("\n".join(problems))


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """'a.b' -> value, of nested objects."""
    result = {}
    for key, value in tree.items():
        inner = isinstance(value, dict)
        result |= flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return result


def _problem(key: str, value: Any) -> str:
    for pattern, count, kind, expected in _TUPLES:
        if value is not None and re.fullmatch(pattern, key):
            numbers = [x for x in value if isinstance(x, kind) and not isinstance(x, bool)]
            if len(value) != count or len(numbers) != count:
                return f"expected {expected}"
    lowest, highest = next(r[1:] for r in _RANGES if re.fullmatch(r[0], key))
    if any(not lowest <= number <= highest for number in _numbers(value)):
        return f"expected {lowest:g} to {highest:g}"
    if _RATES.fullmatch(key) and not all(map(_is_rate, value)):
        return "expected pairs of a regex and a factor on the rate"
    regexes = value if isinstance(value, tuple | list) else [value]
    if _REGEXES.fullmatch(key) and not all(map(_is_regex, regexes)):
        return "expected a regex"
    return ""


def _numbers(value: Any) -> Iterator[float]:
    """All in it; not-a-number is below and above everything."""
    if isinstance(value, tuple | list):
        for inner in value:
            yield from _numbers(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def _is_rate(pair: Any) -> bool:
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not _is_regex(pair[0]):
        return False
    return isinstance(pair[1], int | float) and math.isfinite(pair[1])


def _is_regex(pattern: Any) -> bool:
    try:
        re.compile(pattern)
    except (re.error, TypeError, RecursionError, OverflowError):
        return False
    return isinstance(pattern, str)
