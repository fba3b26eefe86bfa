"""TFDS builders: AVSBench (S4, MS3, AVSS) from the user's folder, and the built-in benchmark."""
