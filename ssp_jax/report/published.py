"""Published figures of AVSBench: mIoU and F-score in per cent, as the papers report them."""

import dataclasses
from collections.abc import Mapping

BENCHMARKS = ("s4", "ms3", "avss")


@dataclasses.dataclass(frozen=True)
class Method:
    """A published method; `fscore` lacks what is not known here."""

    name: str
    source: str
    miou: Mapping[str, float]
    fscore: Mapping[str, float] = dataclasses.field(default_factory=dict)


def _scores(*values: float) -> dict[str, float]:
    return dict(zip(BENCHMARKS, values, strict=True))


AAVS = Method(
    "AAVS (Stepping Stones)",
    "ECCV 2024, arXiv 2407.11820",
    _scores(83.2, 67.3, 48.5),
    _scores(91.3, 77.6, 53.2),
)
SSP = Method(
    "SSP (Stepping Stone Plus)",
    "ICCV 2025, arXiv 2601.08133",
    _scores(85.4, 72.3, 50.1),
    _scores(93.3, 84.6, 54.5),
)
METHODS = (
    AAVS,
    SSP,
    Method("VCT", "later work", _scores(86.2, 67.6, 52.5)),
    Method("KEVA", "later work", _scores(87.4, 73.5, 52.0)),
    Method("EASE (ViT-L)", "later work", _scores(87.7, 70.2, 56.5)),
)


def benchmark_of(words: str) -> str | None:
    """Return which of the columns 'benchmark:split' words belong to; None for any other data.

    AVSBench-semantic's test_v1s and test_v1m are the clips of S4 and MS3 with other masks; the
    protocol 'stepping_stones', which AAVS's and SSP's figures follow, scores these.
    """
    columns = {
        "s4:test": "s4",
        "ms3:test": "ms3",
        "avss:test": "avss",
        "avss:test_v1s": "s4",
        "avss:test_v1m": "ms3",
    }
    return columns.get(words)
