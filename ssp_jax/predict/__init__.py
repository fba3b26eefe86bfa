"""Segment what sounds in one's own videos: `python -m ssp_jax.predict --help`, or in a notebook

predictor = Predictor.from_run("runs/demo")
seconds = predictor(frames, sound, rate)  # frames (T, H, W, 3), one a second
draw(frames[0], seconds[0].labels, seconds[0].sounding)
"""

from ssp_jax.predict.overlay import draw
from ssp_jax.predict.predictor import Predictor, SecondPrediction, Sounding

__all__ = ["Predictor", "SecondPrediction", "Sounding", "draw"]
