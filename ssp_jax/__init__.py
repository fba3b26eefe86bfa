"""SSP (Stepping Stone Plus) and its baseline AAVS in JAX: audio-visual semantic segmentation."""
