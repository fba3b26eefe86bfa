"""The built-in audio-visual segmentation benchmark: generated clips, deterministic by seed."""

from tfds_builders.avs_builtin.builder import AvsBuiltin, AvsBuiltinTiny, prepare_builtin

__all__ = ["AvsBuiltin", "AvsBuiltinTiny", "prepare_builtin"]
