"""Results as a table for the console."""

from collections.abc import Mapping

_ROWS = (
    ("this model", ()),
    ("this model, foreign sounds", ("foreign_sounds",)),
    ("nothing", ("nothing",)),
    ("everything", ("everything",)),
    ("every moving object (oracle)", ("moving",)),
    ("every visible object (oracle)", ("visible",)),
)


def format_table(results: Mapping[str, Mapping]) -> str:
    """mIoU / F-score in per cent: a row per predictor, a column per test set."""
    header = ["", *(f"{name} mIoU / F" for name in results)]
    rows = [header]
    for title, path in _ROWS:
        cells = []
        for result in results.values():
            for key in path:
                result = result.get(key, {})
            has = "miou" in result
            cells.append(
                f"{100 * result['miou']:.1f} / {100 * result['fscore']:.1f}" if has else ""
            )
        if any(cells):
            rows.append([title, *cells])
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
