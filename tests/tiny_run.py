"""The demo's config at a size that compiles and runs in seconds, for tests of the whole road."""

from configs import demo
from ssp_jax.run_folder import stage_names

TINY_MODEL = {
    "embed_dim": 16,
    "depths": (1, 1, 1, 1),
    "swin_heads": (1, 1, 2, 2),
    "hidden": 32,
    "heads": 2,
    "encoder_layers": 1,
    "encoder_ffn": 32,
    "decoder_layers": 1,
    "decoder_ffn": 32,
    "audio_hidden": 16,
    "audio_width": 0.0625,
}


def get_config(prepared_dir: str = "prepared", kind: str = "baseline"):
    """The demo of that kind on `builtin_tiny`, four steps a stage.

    In a command line: --config=tests/tiny_run.py:PREPARED_DIR,KIND
    """
    if "," in prepared_dir:
        prepared_dir, kind = prepared_dir.split(",")
    config = demo.get_config(kind)
    config.model.update(TINY_MODEL)
    config.prepared_dir = prepared_dir
    config.log_every = 1
    config.data.frame_size = config.data.stored_size = 64
    for name in stage_names(config):
        stage = config[name]
        stage.train = tuple(word.replace("builtin", "builtin_tiny") for word in stage.train)
        for split in ("val", "test"):
            for key, word in stage[split].items():
                stage[split][key] = word.replace("builtin", "builtin_tiny")
        stage.steps, stage.eval_every, stage.batch_size = 4, 2, 8
        stage.criterion.num_points = 64
    return config
