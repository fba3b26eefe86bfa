"""The built-in audio-visual segmentation benchmark: generated clips, deterministic by seed."""
