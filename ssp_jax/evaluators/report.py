"""Results as a table for the console."""

from collections.abc import Iterator, Mapping, Sequence

SOUNDS = {
    "this model": "",
    "this model, silence": "silence",
    "this model, white noise": "noise",
    "this model, foreign sounds": "foreign_sounds",
}
PREDICTORS = SOUNDS | {
    "nothing": "nothing",
    "everything": "everything",
    "every moving object (oracle)": "moving",
    "every visible object (oracle)": "visible",
}


def format_table(results: Mapping[str, Mapping]) -> str:
    """mIoU / F-score in per cent: a row per predictor, a column per test set; then robustness."""
    return "\n\n".join(filter(None, (_score_table(results), _robustness_table(results))))


def _score_table(results: Mapping[str, Mapping]) -> str:
    rows = [["", *(f"{name} mIoU / F" for name in results)]]
    rows += score_rows(PREDICTORS, results, ("miou", "fscore"))
    return _aligned(rows)


def _robustness_table(results: Mapping[str, Mapping]) -> str:
    """Share of activated pixels and G-mIoU in per cent, under each sound."""
    rows = [["", *(f"{name} activated / G-mIoU" for name in results)]]
    rows += score_rows(SOUNDS, results, ("activated", "g_miou"))
    return _aligned(rows) if len(rows) > 2 else ""


def score_rows(
    titles: Mapping[str, str], results: Mapping[str, Mapping], keys: Sequence[str]
) -> Iterator[list[str]]:
    """A row per title that has scores, in per cent.

    Args:
      titles: title -> key of its scores in a result, "" for those of the result itself. results: a
        column per test set.
    """
    for title, key in titles.items():
        scores = [result.get(key, {}) if key else result for result in results.values()]
        cells = [" / ".join(f"{100 * s[k]:.1f}" for k in keys if k in s) for s in scores]
        if any(cells):
            yield [title, *cells]


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
