"""Ways to damage a file, as disks, networks and people do."""

import os
import random
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

# Put in place of a number in JSON and csv files.
_NUMBERS = (
    *("-1", "0", "1", "7", "1e308", "-1e999", "1.5", "NaN", "Infinity", "9" * 30, "9" * 5000),
    *("null", "true", '""', '"x"', "[]", "{}", "2147483648", "-9223372036854775809", '"1e9"'),
)
# Put in place of a word.
_WORDS = (
    *("", "../../outside", "/etc/passwd", "..", "a/b", "\x00", "\ud83d", "x" * 300, "x" * 200_000),
    *("\\", "*", "nan", "{}", "%s", "CON", "ä", "\n"),
)
_TEXTS = (".json", ".csv", ".txt")


def damage(path: Path, others: Sequence[Path], rng: random.Random) -> str:
    """Damage a file; `others` of its folder may be exchanged with it. Returns the kind of damage.

    The file's date stays in half of the cases, as where a disk fails.
    """
    date = path.stat().st_mtime_ns
    ways = dict(_WAYS)
    if path.suffix in _TEXTS and path.stat().st_size:
        ways |= _TEXT_WAYS
    alike = [other for other in others if other.suffix == path.suffix and other != path]
    if alike:
        ways["exchanged"] = lambda path, rng: _exchange(path, rng.choice(alike))
    kind = rng.choice(sorted(ways))
    ways[kind](path, rng)
    if path.exists() and rng.random() < 0.5:
        os.utime(path, ns=(date, date))
    return kind


def _of_bytes(change: Callable[[bytearray, random.Random], bytes]):
    def way(path: Path, rng: random.Random) -> None:
        path.write_bytes(change(bytearray(path.read_bytes()), rng))

    return way


def _flip(data: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _stretch(data: bytearray, rng: random.Random) -> slice:
    start = rng.randrange(len(data) + 1)
    return slice(start, start + rng.choice((1, 4, 16, 512, 4096)))


def _cut(data: bytearray, rng: random.Random) -> bytes:
    del data[_stretch(data, rng)]
    return data


def _repeat(data: bytearray, rng: random.Random) -> bytes:
    place = _stretch(data, rng)
    data[place.start : place.start] = data[place]
    return data


def _overwrite(data: bytearray, rng: random.Random) -> bytes:
    place = _stretch(data, rng)
    count = len(data[place])
    data[place] = rng.randbytes(count) if rng.random() < 0.5 else bytes(count)
    return data


def _number(data: bytearray, rng: random.Random) -> bytes:
    found = list(re.finditer(rb"-?\d+(\.\d+)?", data))
    return _with(data, found, rng.choice(_NUMBERS), rng)


def _word(data: bytearray, rng: random.Random) -> bytes:
    found = list(re.finditer(rb"[^\W\d][\w./:-]*", data))
    return _with(data, found, rng.choice(_WORDS), rng)


def _with(data: bytearray, found: list[re.Match], text: str, rng: random.Random) -> bytes:
    if found:
        start, end = rng.choice(found).span()
        data = data[:start] + text.encode(errors="surrogatepass") + data[end:]
    return data


def _nest(data: bytearray, rng: random.Random) -> bytes:
    place, count = rng.randrange(len(data)), rng.choice((1, 3000, 100_000))
    return data[:place] + rng.choice((b"[", b'{"a":', b'"', b",")) * count + data[place:]


def _exchange(path: Path, other: Path) -> None:
    third = path.with_name(path.name + ".third")
    path.rename(third)
    other.rename(path)
    third.rename(other)


def _as_folder(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()


_WAYS = {
    "bits flipped": _of_bytes(_flip),
    "cut off": _of_bytes(lambda data, rng: data[: rng.randrange(len(data) + 1)]),
    "a stretch lost": _of_bytes(_cut),
    "a stretch twice": _of_bytes(_repeat),
    "a stretch overwritten": _of_bytes(_overwrite),
    "garbage": _of_bytes(lambda data, rng: rng.randbytes(rng.choice((1, 100, len(data) + 1)))),
    "emptied": _of_bytes(lambda data, rng: b""),
    "deleted": lambda path, rng: path.unlink(),
    "a folder instead": _as_folder,
    "another kind's": lambda path, rng: shutil.copyfile(__file__, path),
}
_TEXT_WAYS = {
    "an absurd number": _of_bytes(_number),
    "an absurd word": _of_bytes(_word),
    "nested": _of_bytes(_nest),
}
