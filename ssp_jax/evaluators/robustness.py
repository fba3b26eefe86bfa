"""How far a model is led by its eyes: scores under sounds that nothing in the picture makes.

The protocol of AVSBench-Robust (arXiv 2502.00358): the same frames with silence, with white noise,
and with the sound of another clip of other classes, against the clip's own masks. A model that
listens activates nothing then, so mIoU, F-score and the share of activated pixels are best low.
"""

from collections.abc import Mapping

# Sound -> its key in results.
KEYS = {"silence": "silence", "noise": "noise", "foreign": "foreign_sounds"}


def g_miou(own: float, negative: float) -> float:
    """Harmonic mean of the mIoU and of 1 - the mIoU under negative sound; high is right."""
    total = own + 1 - negative
    return 2 * own * (1 - negative) / total if total > 0 else 0.0


def with_g_miou(
    own: Mapping[str, float], negative: Mapping[str, Mapping[str, float]]
) -> dict[str, float | dict[str, float]]:
    """Return what results gain: {"silence": {"miou", ..., "g_miou"}, ..., "g_miou"}.

    The last one is of the mean mIoU over the negative sounds.

    Args:
      own: scores with the clips' own sounds. negative: sound -> scores.
    """
    if not negative:
        return {}
    gains = {
        KEYS[sound]: {**scores, "g_miou": g_miou(own["miou"], scores["miou"])}
        for sound, scores in negative.items()
    }
    mean = sum(scores["miou"] for scores in negative.values()) / len(negative)
    return gains | {"g_miou": g_miou(own["miou"], mean)}
