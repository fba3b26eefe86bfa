"""TFDS builder of a benchmark; see the module of the same name."""

from tfds_builders.avs_ms3.avs_ms3 import AvsMs3

__all__ = ["AvsMs3"]
