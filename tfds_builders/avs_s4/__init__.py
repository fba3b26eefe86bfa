"""TFDS builder of a benchmark; see the module of the same name."""

from tfds_builders.avs_s4.avs_s4 import AvsS4

__all__ = ["AvsS4"]
