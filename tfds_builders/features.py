"""What one prepared clip looks like, the same for every builder."""

import numpy as np
import tensorflow_datasets as tfds

SAMPLE_RATE = 16_000  # Hz; VGGish's rate, what every waveform is stored at
SUBSETS = ("v1s", "v1m", "v2")  # single source (S4), multi source (MS3), semantic


def clip_features(*, with_objects: bool = False) -> tfds.features.FeaturesDict:
    """Features of one clip of T frames (1 frame/s; T = 5 or 10) of which A are annotated.

    Images stay encoded (JPEG or PNG bytes) at the resolution they came in; one clip may differ in
    size from the next. Read them with `tfds.decode.SkipDecoding` and decode only what is needed.

    - uid, vid: clip and video name. subset: v1s, v1m or v2.
    - category: S4's category, AVSS's `a_obj`, empty for MS3. Metadata, never a label of pixels.
    - frames: T RGB images. labels: A single-channel PNGs of class indices (0 background; S4, MS3:
      0/1), the masks of the first A frames, each of the size that its frame came in.
    - waveform: (n,) int16, mono, 16 kHz.
    - annotated: (T,) bool, True for the first A frames.
    - texts: A1 (`scene`) and A2 (`sounding`) of SSP section 4.4; empty where not generated.
    - objects, moving (only the built-in benchmark, `with_objects`): A single-channel PNGs each:
      class index of every visible object, sounding or silent; 1 where that object moves. For
      baselines and reports only, never an input of the model.
    """
    image = tfds.features.Image(shape=(None, None, 3))

    def map_():
        return tfds.features.Image(shape=(None, None, 1), encoding_format="png")

    features = {
        "uid": tfds.features.Text(),
        "vid": tfds.features.Text(),
        "subset": tfds.features.Text(),
        "category": tfds.features.Text(),
        "frames": tfds.features.Sequence(image),
        "labels": tfds.features.Sequence(map_()),
        # As bytes: among tf.Example's own integers a negative sample takes ten bytes, and every
        # sample becomes a Python object when it is written.
        "waveform": tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding="bytes"),
        "annotated": tfds.features.Tensor(shape=(None,), dtype=np.bool_),
        "texts": {"scene": tfds.features.Text(), "sounding": tfds.features.Text()},
    }
    if with_objects:
        features["objects"] = tfds.features.Sequence(map_())
        features["moving"] = tfds.features.Sequence(map_())
    return tfds.features.FeaturesDict(features)
