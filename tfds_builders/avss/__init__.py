"""TFDS builder of a benchmark; see the module of the same name."""

from tfds_builders.avss.avss import Avss

__all__ = ["Avss"]
