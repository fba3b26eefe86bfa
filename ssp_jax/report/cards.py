"""The parts that the page of a run and that of a comparison share."""

from collections.abc import Mapping

from ssp_jax.report.markup import Markup, bar, joined, percent, picture, table, tag

_LEAST_CELL = 42  # side of a frame in a strip on a narrow screen, pixels


def card(title: object, *body: object, note: str | None = None, whole: bool = False) -> Markup:
    """A box with a title, and a word of what it shows; `whole`: as wide as the page."""
    says = tag("p", note, class_="note") if note else None
    return tag("section", tag("h3", title), *body, says, class_="card whole" if whole else "card")


def cards(*boxes: Markup | None, class_: str = "") -> Markup:
    """Boxes side by side, as many as there is room for."""
    return tag("div", *boxes, class_=f"cards {class_}".strip())


def figure(title: str, svg: str, note: str | None = None, *, whole: bool = False) -> Markup:
    """A box with a plot; `whole`: as wide as the page, and never too small to be read."""
    image = picture("image/svg+xml", svg, title)
    if whole:
        return card(title, tag("div", image, class_="wide"), note=note, whole=True)
    return card(title, image, note=note)


def group_table(group: Mapping) -> Markup:
    """Scores by kind of frame, see `groups.frame_groups`."""
    rows = [
        [row["name"], row["count"], bar(row["iou"]), percent(row["fscore"])]
        for row in group["rows"]
    ]
    return card(group["title"], table(["", "number", "IoU", "F"], rows), note=group["note"])


def strips(view: Mapping) -> Markup:
    """The rows of pictures of a clip; long ones scroll together."""
    figures = [
        tag(
            "figure",
            tag("figcaption", strip["title"]),
            picture("image/jpeg", strip["picture"], strip["title"]),
        )
        for strip in view["strips"]
    ]
    least = f"min-width:{_LEAST_CELL * len(view['seconds'])}px"
    return tag("div", tag("div", *figures, style=least), class_="strips")


def sound(view: Mapping) -> Markup | None:
    """A player."""
    if view["sound"] is None:
        return tag("p", "no sound", class_="caption")
    kind, data = view["sound"]
    return tag("audio", controls="", preload="none", src=f"data:{kind};base64,{data}")


def legend(view: Mapping) -> Markup:
    """Colours of the classes in truth or prediction."""
    return tag(
        "p",
        *(
            tag("span", tag("i", style=f"background:{entry['colour']}"), entry["name"])
            for entry in view["legend"]
        ),
        class_="legend",
    )


def texts(*views: Mapping) -> Markup | None:
    """Show what a clip's texts say, and whether each view's network reads them."""
    if not any(views[0]["texts"]):
        return None
    read = ("read" if view["texts_read"] else "not read" for view in views)
    read = ", ".join(dict.fromkeys(read))
    lines = [tag("div", text) for text in views[0]["texts"] if text]
    caption = tag("p", f"texts ({read} by the network)", class_="caption")
    return joined([caption, tag("blockquote", *lines)])
