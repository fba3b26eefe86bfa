"""Overrides of a config in a command line: --config.avs.steps=5, --config.avs.optim={'lr':1e-3}."""

import ast
import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference

from ssp_jax.errors import UserError

_OVERRIDE = re.compile(r"--?(?P<no>no)?config\.(?P<key>[^=]*)(?P<equals>=?)(?P<text>.*)", re.DOTALL)
_FLAG = re.compile(r"--?[A-Za-z].*", re.DOTALL)
# Their keys are names of the user's own: a dict that is given for one takes its place.
_TABLES = re.compile(r"\w+\.(val|test)")
_EXPECTED = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    tuple: "a tuple, as ('a', 'b') or (1, 2)",
}
_LONGEST = 200  # of what a message repeats
_TRUTHS = dict.fromkeys(("true", "t", "1"), True) | dict.fromkeys(("false", "f", "0"), False)


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words that are no overrides, and the overrides as one word each.

    An override is `--config.KEY=VALUE`, `--config.KEY VALUE`, and of a bool also `--config.KEY` or
    `--noconfig.KEY`. What follows `--` is none.
    """
    rest, overrides, words = [], [], list(argv)
    while words:
        word = words.pop(0)
        found = _OVERRIDE.fullmatch(word)
        if word == "--":
            return [*rest, word, *words], overrides
        if found is None:
            rest.append(word)
        elif found["equals"] or found["no"] or not words or _FLAG.fullmatch(words[0]):
            overrides.append(word)
        else:
            overrides.append(f"{word}={words.pop(0)}")
    return rest, overrides


def override(config: ConfigDict, changes: Sequence[str]) -> None:
    """Change a config as overrides say, one after the other.

    A section takes a dict: the keys in it change, the others stay; of val and test, whose keys are
    names of the user's own, the dict takes the place of the whole table. A key that has no value of
    its own takes None.

    Raises:
      UserError: there is no such key, naming the nearest, or it does not take the value.
    """
    for change in changes:
        found = _OVERRIDE.fullmatch(change)
        key, text = found["key"], found["text"] if found["equals"] else None
        place = _Place(config, key, change)
        if found["no"] and (place.kind is not bool or text is not None):
            raise UserError(f"{change}: --no is for keys that are true or false, without a value")
        place.set(not found["no"] if text is None and place.kind is bool else place.read(text))


class _Place:
    """Where a key, 'a.b', lies in a config; `typed` is what the user wrote, for messages."""

    def __init__(self, config: ConfigDict, key: str, typed: str):
        self.config, self.key = config, key
        self.typed = typed if len(typed) < _LONGEST else f"{typed[:_LONGEST]}..."
        *sections, self.name = key.split(".")
        self.section = config
        for number, name in enumerate([*sections, self.name]):
            inside = self.section if isinstance(self.section, ConfigDict) else {}
            if name not in inside:
                raise UserError(f"{typed}: {self._unknown(sections[:number], name)}")
            if number < len(sections):
                self.section = inside[name]
        self.kind = self.section.get_type(self.name)
        stored = dict(self.section.items(preserve_field_references=True))[self.name]
        self.takes_none = isinstance(stored, FieldReference)

    def read(self, text: str | None) -> Any:
        """Return the value that a text of the command line stands for."""
        if text is None:
            raise UserError(f"{self.typed}: no value; expected {self._expected()}")
        if text == "None" and self.kind is not tuple:
            return None
        if self.kind is str:
            return text
        try:
            if self.kind is bool:
                return _TRUTHS[text.lower()]
            return self.kind(text) if self.kind in (int, float) else _literal(text)
        except (KeyError, ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise self._refused() from None

    def set(self, value: Any) -> None:
        """Give the key this value, if it takes it."""
        if value is None and self.takes_none:
            self.section[self.name] = None
            return
        if issubclass(self.kind, ConfigDict):
            self._merge(value)
            return
        if self.kind is tuple:
            value = _as_tuple(value)
        # bool is a subclass of int.
        whole = isinstance(value, int) and not isinstance(value, bool)
        if type(value) is not self.kind and not (self.kind is float and whole):
            raise self._refused()
        try:
            self.section[self.name] = value
        except OverflowError:  # an int of 400 digits for a float
            raise self._refused() from None

    def _merge(self, value: Any) -> None:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise self._refused()
        if _TABLES.fullmatch(self.key):
            if any("." in key or not isinstance(word, str) for key, word in value.items()):
                raise self._refused()
            with self.config.unlocked():
                self.section[self.name] = ConfigDict(dict(value))
            return
        for key, inner in value.items():
            _Place(self.config, f"{self.key}.{key}", self.typed).set(inner)

    def _refused(self) -> UserError:
        where = "" if self.typed.startswith(f"--config.{self.key}=") else f"config.{self.key}: "
        return UserError(f"{self.typed}: {where}expected {self._expected()}")

    def _expected(self) -> str:
        if not issubclass(self.kind, ConfigDict):
            now = self.section[self.name]
            none = " or None" if self.takes_none else ""
            empty = ", '' for none" if self.kind is str and now == "" else ""
            shown = "" if now in (None, "") else f"; it is {now!r}"
            return f"{_EXPECTED.get(self.kind, self.kind.__name__)}{none}{empty}{shown}"
        if _TABLES.fullmatch(self.key):
            return "{'NAME': 'benchmark:split', ...}, the whole table"
        keys = list(self.section[self.name])
        return (
            f"a dict of keys to change, as {{{keys[0]!r}: ...}}, or one key alone, as "
            f"--config.{self.key}.{keys[0]}=...; its keys are {', '.join(keys)}"
        )

    def _unknown(self, sections: Sequence[str], name: str) -> str:
        """Say that a section has no key of this name, and which are near."""
        every, inside = _all_keys(self.config), self.config
        for section in sections:
            inside = inside[section]
        where = ".".join(["config", *sections])
        if not isinstance(inside, ConfigDict):
            return f"{where} is no section: it has a value of its own and no key {name!r}"
        prefix = "".join(f"{section}." for section in sections)
        beside = difflib.get_close_matches(name, list(inside), 3)
        # The last part may be right and its section forgotten, or the other way round.
        last = self.key.split(".")[-1]
        elsewhere = [key for key in every if key.split(".")[-1] == last]
        like = difflib.get_close_matches(self.key, every, 3, 0.75)
        near = list(dict.fromkeys([*(prefix + key for key in beside), *elsewhere, *like]))[:3]
        if _TABLES.fullmatch(".".join(sections)):
            table = f"its names are {', '.join(inside) or 'none'}; for others give the whole table"
            return f"no {name!r} in {where}: {table}, --{where}={{{name!r}: 'benchmark:split'}}"
        if near:
            return f"no key {name!r} in {where}; the nearest: {', '.join(near)}"
        return f"no key {name!r} in {where}; its keys are {', '.join(inside)}"


def _literal(text: str) -> Any:
    """Return what a text says in Python, or, where it is one word, that word."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        # Of several words nobody knows whether they are meant as one.
        if re.search(r"[,\s]", text):
            raise
        return text


def _as_tuple(value: Any) -> tuple:
    if isinstance(value, list | tuple):
        return tuple(_as_tuple(x) if isinstance(x, list | tuple) else x for x in value)
    return value if isinstance(value, Mapping | set) else (value,)


def _all_keys(config: ConfigDict, prefix: str = "") -> list[str]:
    """Return 'a', 'a.b', ... of all sections and keys."""
    keys = []
    for name, value in config.items():
        keys.append(prefix + name)
        if isinstance(value, ConfigDict):
            keys += _all_keys(value, f"{prefix}{name}.")
    return keys
