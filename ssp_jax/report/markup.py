"""HTML of which every text and attribute is escaped, since only `tag` makes markup."""

import html
from collections.abc import Iterable, Sequence
from pathlib import Path

_EMPTY = {"meta", "img", "br"}


class Markup(str):
    """A text that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element. Children are `Markup` or texts to escape; None is left out.

    Attributes end in '_' where their name is a Python word; those that are None are left out.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _EMPTY:
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{joined(children)}</{name}>")


def joined(parts: Iterable[object]) -> Markup:
    """Parts one after the other, see `tag`."""
    return Markup(
        "".join(
            part if isinstance(part, Markup) else html.escape(str(part))
            for part in parts
            if part is not None
        )
    )


def table(
    header: Sequence[object], rows: Iterable[Sequence[object]], *, long: bool = False
) -> Markup:
    """A table that scrolls sideways where it is too wide; its first column names the rows.

    Args:
      long: of so many rows that they scroll, too.
    """
    head = tag("tr", *(tag("th", cell) for cell in header))
    body = [tag("tr", tag("th", row[0]), *(tag("td", cell) for cell in row[1:])) for row in rows]
    inner = tag("table", tag("thead", head), tag("tbody", *body))
    return tag("div", inner, class_="wide long" if long else "wide")


def percent(value: float | None, *, signed: bool = False) -> str:
    """A share in per cent, one decimal; a dash where there is none."""
    if value is None:
        return "–"
    rounded = round(100 * value, 1) + 0.0  # no -0.0
    return f"{rounded:+.1f}" if signed and rounded else f"{rounded:.1f}"


def bar(value: float | None) -> Markup:
    """A share in per cent with a bar as long."""
    if value is None:
        return tag("span", "–")
    length = tag("i", style=f"width:{100 * min(max(value, 0.0), 1.0):.1f}%")
    return joined([tag("span", length, class_="bar"), tag("b", percent(value))])


def picture(kind: str, data: str, description: str, **attributes) -> Markup:
    """An image within the page: media type, file in base64."""
    return tag("img", src=f"data:{kind};base64,{data}", alt=description, **attributes)


def document(title: str, *body: object) -> str:
    """A whole page. It may load and run nothing, whatever its texts may hold."""
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    policy = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Markup(style)),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', *body), lang='en')}\n"
