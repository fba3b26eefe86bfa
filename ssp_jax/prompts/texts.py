"""The texts of clips (method 4.4): their file, and worse versions of them for ablations.

A1 ('scene') tells location and characteristics of each object, A2 ('sounding') which nouns are
likely to make sound.
"""

import hashlib
import json
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ssp_jax.errors import UserError
from ssp_jax.files import write_whole
from ssp_jax.json_files import load_json

Texts = tuple[str, str]  # A1, A2
Variation = Literal["clean", "empty", "shuffled", "noisy"]

VARIATIONS = get_args(Variation)
NO_TEXTS: Texts = ("", "")
KEYS = ("scene", "sounding")
_FORMAT = 1
_NAMED = 10  # entries named in one message
_ENTRY = '{"scene": "...", "sounding": "..."} or ["...", "..."]'

_LOG = logging.getLogger(__name__)


def read_texts(path: str | Path, uids: Sequence[str]) -> tuple[Texts, ...]:
    """The texts of the clips `uids`, in their order; ("", "") for clips that the file lacks.

    The log says how many clips have none, and how many of the file's are not asked for: it may
    cover more splits than are read here.

    Raises:
      UserError: see `read_text_file`; or the file has none of these clips.
    """
    texts, _ = read_text_file(path)
    wanted = set(uids)
    surplus = [uid for uid in texts if uid not in wanted]
    missing = [uid for uid in uids if uid not in texts]
    if uids and len(missing) == len(uids):
        raise UserError(
            f"{path}: has texts of {len(texts)} clips ({_some(texts)}), but of none of the "
            f"{len(uids)} that are read ({_some(uids)}). It is of another data set, or its keys "
            "are not the clips' uids"
        )
    if surplus:
        _LOG.warning("%s: %d clips not read here: %s", path, len(surplus), _some(surplus))
    if missing:
        _LOG.warning(
            "%s: no texts for %d of %d clips, which stay empty: %s",
            path,
            len(missing),
            len(uids),
            _some(missing),
        )
    return tuple(texts.get(uid, NO_TEXTS) for uid in uids)


def read_text_file(path: str | Path) -> tuple[dict[str, Texts], dict[str, Any]]:
    """Texts by uid, and what the file says of their making (empty for a bare file).

    Either what `write_text_file` writes, or from anywhere a bare object of
    uid -> {"scene": A1, "sounding": A2} or uid -> [A1, A2].

    Raises:
      UserError: unreadable, not of this structure, a key twice; names all that is wrong.
    """
    path, twice = Path(path), []

    def checked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            names = [name for name, _ in pairs]
            twice.extend(sorted({name for name in names if names.count(name) > 1}))
        return content

    try:
        content = load_json(path, hook=checked)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}). Expected texts") from error
    facts = {}
    if isinstance(content, dict) and "format" in content:
        facts = {key: value for key, value in content.items() if key not in ("format", "texts")}
        if content["format"] != _FORMAT:
            raise UserError(f"{path}: format {content['format']!r}, expected {_FORMAT}")
        content = content.get("texts")
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: expected an object of clip uid -> {_ENTRY}, bare or under 'texts' beside "
            f"'format': {_FORMAT}"
        )
    problems = [f"{name!r} twice in one object" for name in twice]
    problems += [
        f"{uid}: {problem}" for uid, entry in content.items() if (problem := _problem(entry))
    ]
    if problems:
        more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise UserError(
            f"{path}: {'; '.join(problems[:_NAMED])}{more}. Expected uid -> {_ENTRY}, once each"
        )
    texts = {
        uid: tuple(entry[key] for key in KEYS) if isinstance(entry, dict) else tuple(entry)
        for uid, entry in content.items()
    }
    return texts, facts


def write_text_file(path: str | Path, texts: Mapping[str, Texts], facts: Mapping[str, Any]) -> None:
    """Write texts by uid, whole; `facts` (anything json can hold) say how they were made.

    Raises:
      UserError: cannot be written.
    """
    entries = {uid: dict(zip(KEYS, pair, strict=True)) for uid, pair in texts.items()}
    stored = {"format": _FORMAT, **facts, "texts": entries}
    try:
        write_whole(Path(path), json.dumps(stored, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error})") from error


def vary_texts(
    texts: Sequence[Texts],
    uids: Sequence[str],
    how: Variation,
    seed: int,
    share: float = 0.5,
) -> tuple[Texts, ...]:
    """The texts made worse, for the ablation of their quality; the same for the same arguments.

    Args:
      texts, uids: of the same clips.
      how: clean: as they are. empty: none. shuffled: every clip has another's, each used once.
        noisy: words are dropped or, as often, replaced by one of another clip's same answer.
      share: of the words that `noisy` changes, 0 to 1.

    Raises:
      UserError: unknown `how`, a share out of range, or one clip alone to shuffle.
    """
    if how not in VARIATIONS:
        raise UserError(f"texts: expected {', '.join(VARIATIONS)}, got {how!r}")
    if not 0 <= share <= 1:
        raise UserError(f"texts: the share of noisy words is {share}, expected 0 to 1")
    if how == "empty":
        return (NO_TEXTS,) * len(texts)
    if how == "shuffled":
        if len(texts) == 1:
            raise UserError("texts: cannot be shuffled, there is one clip alone")
        order = np.random.default_rng(seed).permutation(len(texts))
        partner = np.empty_like(order)
        partner[order] = np.roll(order, 1)  # one cycle over all clips: no fixed point
        return tuple(texts[other] for other in partner)
    if how == "noisy":
        words = [tuple(text.split() for text in pair) for pair in texts]
        return tuple(_noisy(words, clip, uid, seed, share) for clip, uid in enumerate(uids))
    return tuple(texts)


def mirrored(texts: Sequence[Texts]) -> tuple[Texts, ...]:
    """The texts as they would be of the mirrored clips: left for right, and right for left."""

    def other(found: re.Match) -> str:
        word = found[0]
        swapped = "right" if word.lower() == "left" else "left"
        return swapped.capitalize() if word[0].isupper() else swapped

    return tuple(
        tuple(re.sub(r"\b(left|right)\b", other, text, flags=re.IGNORECASE) for text in pair)
        for pair in texts
    )


def _noisy(words: list[tuple], clip: int, uid: str, seed: int, share: float) -> Texts:
    digest = hashlib.sha256(uid.encode()).digest()
    rng = np.random.default_rng([seed, int.from_bytes(digest[:8])])
    answers = []
    for answer, own in enumerate(words[clip]):
        kept = []
        for word in own:
            changed, dropped = rng.random(2) < (share, 0.5)
            if not changed:
                kept.append(word)
            elif not dropped and len(words) > 1:
                other = words[(clip + rng.integers(1, len(words))) % len(words)][answer]
                kept += [other[rng.integers(len(other))]] if other else []
        answers.append(" ".join(kept))
    return tuple(answers)


def _problem(entry: Any) -> str:
    """Return what is wrong with the entry of one clip; empty if nothing."""
    if isinstance(entry, dict):
        lacking = [key for key in KEYS if key not in entry]
        unknown = [key for key in entry if key not in KEYS]
        if lacking or unknown:
            return f"has the keys {', '.join(entry) or 'none'}"
        entry = [entry[key] for key in KEYS]
    if not isinstance(entry, list):
        return f"is of type {type(entry).__name__}"
    if len(entry) != len(KEYS):
        return f"has {len(entry)} texts"
    for key, text in zip(KEYS, entry, strict=True):
        if not isinstance(text, str):
            return f"{key} is of type {type(text).__name__}"
        try:
            text.encode()
        except UnicodeEncodeError:
            return f"{key} has half of a surrogate pair"
    return ""


def _some(uids: Collection[str]) -> str:
    named = list(uids)[:3]
    return ", ".join(named) + (", ..." if len(uids) > len(named) else "") or "none"
