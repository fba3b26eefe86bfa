"""What the configs (configs/*.py) share: every key with its default. Change values there."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ssp_jax.errors import UserError
from ssp_jax.models.sizes import SIZES

# What can be overridden in `SSP`, beyond what every size names. The decoder's adapter is a matter
# of the stage.
_OF_SIZES = {key: type(value) for key, value in SIZES["base"].items() if key != "decoder_adapter"}
_MODEL = _OF_SIZES | {
    "final_relu": bool,
    "audio_visual_map": bool,
    "decoder_trains_features": bool,
    "remat": bool,
    "premask_form": str,
    "vta": str,
    "vta_visual": str,
    "vta_stride": int,
    "vta_into": str,
    "vta_norm": str,
    "vta_queries": bool,
    "text_visual_map": bool,
    "text_classes": bool,
    "clip_width": int,
    "bert_adapters": bool,
}


# (regex on parameter paths, factor on the rate); the first that is found decides, 0 freezes.
AAVS_PHASE_1 = (
    (r"^network/encoder/", 0.0),
    # The last two are SSP's; BERT itself is a matter of `optim.bert`.
    (
        r"query_|prompt_embedding|/adapter/|class_head|^network/audio_projection/"
        r"|post_mask_head/|^network/vta/",
        1.0,
    ),
    (r".", 0.0),
)
AAVS_PHASE_2 = ((r"^network/encoder/.*_adapter/", 1.0), *AAVS_PHASE_1)


# Questions about a clip's frames, for the texts A1 and A2 (method 4.4). The paper describes its
# questions; the words are ours. {scene} is the first answer.
WORDINGS = {
    "scene": "These are frames of one video, in order. Describe the location and the "
    "characteristics of each object in the video, in one short sentence per object.",
    "sounding": "These are frames of one video, in order. Its objects: {scene}\n"
    "Given this, which nouns are likely to produce sound in the video? Answer with nouns only, "
    "separated by commas.",
}


def stage(**changes) -> ConfigDict:
    """One training: `avs` is binary (where does it sound), `avss` names the classes as well.

    `objects` segments all that is visible; only the built-in benchmark has labels for it.
    """
    config = ConfigDict(
        {
            "train": ("",),  # data to train on, 'builder:split'
            # Name in results -> 'builder:split'; val selects the best parameters. In a command line
            # a dict for one of them takes the place of all its sets.
            "val": {},
            "test": {},
            "num_queries": 30,
            "max_targets": 2,  # classes of one frame that the loss can hold, background included
            # What to start from instead of config.init_from: stages before this one ("objects",
            # "avs") or folders, separated by commas; of two that fit, the later one. What they
            # lack is an error unless a regex allows it.
            "init_from": "",
            "init_new": (),
            # AAVS: "replace" in stage 1, "after" in stage 2, "none"; None: the size's own.
            "decoder_adapter": placeholder(str),
            # The mask prompt (method 3.6, 4.2). source: "none", or what stands for the reference R
            # when predicting: "stage1" (its masks; stage1: its folder, where it is not of this
            # run), "self" (a first pass), "heard" (the audio-visual map), "flow" (nothing), or
            # "truth", which only shows what a perfect reference would be worth. In
            # training R is the ground truth or that with these probabilities, else empty.
            # premask: the prompt is the pre-mask of flow mask and R, in the form that
            # config.model.premask_form says, not R alone.
            "prompt": {
                "source": "none",
                "premask": False,
                "stage1": "",
                "truth": 1.0,
                "predicted": 0.0,
            },
            "batch_size": 16,  # frames per step, over all devices
            # Parts of a batch whose gradients are computed one after the other and added up: the
            # same step in less memory.
            "accumulate": 1,
            "steps": 1000,
            "eval_every": 250,
            "eval_first": False,  # evaluate before the first step as well
            # "all": one phase, as `optim` says. "aavs": two (method 3.8), with these changes.
            "phases": "all",
            "phase1": {"share": 0.5, "lr": 1e-3, "rates": AAVS_PHASE_1},
            "phase2": {"lr": 1e-4, "rates": AAVS_PHASE_2},
            # post_mask (method 4.3): "none", "shared", "head" or "within_flow".
            "criterion": {"num_points": 12544, "post_mask": "none", "post_mask_weight": 10.0},
            # Weights of auxiliary losses (ours): classes of the sound, a dense audio-visual map,
            # an audio-visual contrast. 0 is AAVS.
            "listen": {"sounds": 0.0, "map": 0.0, "contrast": 0.0},
            "optim": {
                "lr": 1e-4,
                "muon_lr": 0.0,  # rate of Muon on weight matrices; 0: AdamW trains them too
                "muon_on": ".",  # regex on their paths
                "schedule": "cosine",
                "final_share": 0.01,
                "warmup_steps": 50,
                "weight_decay": 0.05,
                "b1": 0.9,
                "b2": 0.999,
                "clip_norm": 0.0,
                "rates": (),
                "bert": "all",  # of BERT trains "all", its "adapters", or it is "frozen"
            },
        }
    )
    with config.unlocked():
        for name in ("val", "test"):
            config[name] = ConfigDict(changes.pop(name))
    config.update(changes)
    return config


# Keys that tell of a machine, not of a network: a run may go on with others, and a network that is
# handed on says nothing of them.
OF_THE_MACHINE = (
    "data_dir",
    "prepared_dir",
    "mesh.data",
    "mesh.fsdp",
    "data.num_workers",
    "data.cache_mb",
    "save_every_minutes",
    "log_every",
    "trackers",
    "profile.start",
    "profile.steps",
)


def base() -> ConfigDict:
    """Keys of a run; the stages `avs` and `avss` are added by the configs."""
    return ConfigDict(
        {
            "seed": 0,
            "data_dir": "",  # the folder as downloaded; empty for the built-in benchmark
            "prepared_dir": "prepared",
            "init_from": "",  # weights to start from, see the stages' init_from
            "allow_missing": False,
            "protocol": "official",
            # Also scored at the end, under sounds that nothing in the picture makes: such of
            # "silence", "noise" and "foreign" (another clip's, of other classes) as are named.
            "negative_sounds": "silence,noise,foreign",
            "report": True,  # report.html, and what it is made of in each stage's folder
            "save_masks": False,  # predicted masks of the test sets as PNG, for ssp_jax.score
            # Such of the config's stages ("objects", "avs", "avss") as shall run; "avss" alone
            # takes up a finished "avs".
            "stages": "avs",
            "dtype": "float32",  # what the network computes in, or "bfloat16"
            # Of products of float32 arrays in all that is traced, by JAX's own words: "default" is
            # one bfloat16 pass on a TPU, TF32 on an A100 or H100; "highest" is float32 everywhere.
            "matmul_precision": "default",
            "log_every": 25,
            # Save so often between evaluations, too, each of which saves; 0: not.
            "save_every_minutes": 10.0,
            # Where the numbers of a training go besides metrics.jsonl: "tensorboard", "wandb",
            # both with a comma between, or "".
            "trackers": "tensorboard",
            # So many steps of each stage, from this one on, are traced into WORKDIR/STAGE/profile,
            # for XProf or TensorBoard; 0: none.
            "profile": {"start": 10, "steps": 0},
            # So many steps of a stage may go by without effect because their loss, gradient or new
            # parameters are not finite; one more stops the run.
            "max_skipped": 0,
            # Devices in all: data * fsdp. Batches are split over all of them, large parameters and
            # their moments over fsdp. data 0: as many as there are.
            "mesh": {"data": 0, "fsdp": 1},
            "data": {
                "stored_size": 0,  # side that prepared frames are stored at; 0 keeps the original
                "frame_size": 384,  # side of the network's input; 0: the protocol's own
                "num_workers": 0,
                "cache_mb": 2048,
                # So many training clips may be left out because they cannot be read; others take
                # their slots. One more stops the run, and in evaluation each does.
                "max_bad_clips": 0,
                # What the encoder makes of the training frames, computed once in the phases that
                # leave it as it is and kept beside the prepared data: "float32", "float16",
                # "bfloat16", or "" to go without. A frame takes 8.8 MB in float32 with Swin-B at
                # 384 px: 30 GB for S4.
                "kept_features": "",
                "frames_per_clip": 0,  # random annotated frames of a clip per visit; 0 takes all
                "sounds_from": "category",  # or "labels": per second, semantic data only
                "augment": {
                    "flip": 0.0,
                    "scale": (1.0, 1.0),
                    "brightness": 0.0,
                    "contrast": 0.0,
                    "saturation": 0.0,
                    # Negatives: a share of visits hears another clip, silence or noise, and is
                    # labelled background.
                    "foreign_sound": 0.0,
                    "silence": 0.0,
                    "noise": 0.0,
                },
            },
            # Optical flow of neighbouring frames, estimated once and kept beside the prepared
            # data, and the flow mask M_O that is read from it (ssp_jax/flow/mask.py).
            "flow": {
                "estimator": "dis",  # or "perceiver", with its weight folder
                "weights": "",
                "size": 112,
                "threshold": "mad",  # or "nonzero", "otsu"
                "camera": "affine",  # or "none", "median", "homography"
                "smoothing": "min",  # or "mean"
                "floor": 0.015,
                "deviations": 3.0,
                "despeckle": 5,
            },
            # CLIP's image encoder, read where config.model.vta_visual is "clip": folder of
            # `python -m ssp_jax.weights import --source=clip_vision`. Its tokens of the frames are
            # computed once and kept beside the prepared data.
            "clip": {"weights": ""},
            # Texts, read where config.model.vta is not "none". file: JSON as
            # `python -m ssp_jax.prompts` writes it; empty: those of the data set itself.
            # tokeniser: folder, file or hub name of BERT's vocabulary; empty: one of the built-in
            # benchmark's own words. vary: "clean", or for ablations "empty", "shuffled", "noisy"
            # (a share `noise` of the words). wordings: of the questions that
            # `python -m ssp_jax.prompts` asks a model, not read by a training.
            "texts": {
                "file": "",
                "tokeniser": "",
                "max_length": 64,
                "vary": "clean",
                "noise": 0.5,
                "wordings": WORDINGS,
            },
            # A size of ssp_jax/models/sizes.py; a number given here replaces the size's own.
            "model": {"size": "base"} | {key: placeholder(kind) for key, kind in _MODEL.items()},
        }
    )


# AAVS's training (method 3.8), from pretrained weights: rates as published, not tuned.
AAVS_STAGE = {
    "phases": "aavs",
    "init_new": (
        "query_feature",
        "query_embedding",
        "prompt_embedding",
        "adapter/",
        "class_head",
        "audio_projection",
    ),
    "decoder_adapter": "replace",
    "eval_first": True,
    "optim": {"schedule": "constant", "warmup_steps": 0},
}
AAVS_OBJECT_STAGE = AAVS_STAGE | {"optim": AAVS_STAGE["optim"] | {"clip_norm": 0.01}}
AAVS_SEMANTIC_STAGE = AAVS_STAGE | {
    "num_queries": 100,
    "decoder_adapter": "after",
    "prompt": {"source": "stage1", "truth": 0.0, "predicted": 1.0},
    "phase1": {"share": 1 / 3},
}


def model_overrides(config: ConfigDict) -> dict:
    """Return what `config.model` gives in place of its size's own, as arguments of `SSP`."""
    return {k: v for k, v in config.model.items() if k != "size" and v is not None}


def matmul_precision(config: ConfigDict | Mapping[str, Any]) -> str:
    """Return `config.matmul_precision`; "default" of a run that began before there was that key."""
    return config.get("matmul_precision", "default")


KINDS = ("base", "paper", "aavs", "small")


def check_kind(config_file: str, kind: str) -> None:
    """Refuse what none of the configs has."""
    if kind not in KINDS:
        raise UserError(f"{config_file}:{kind}: expected one of {', '.join(KINDS)}")


# What may start anew beside AAVS's new parts.
_SSP_NEW = ("vta/(visual|align_|norms)", "bert/.*adapter/", "post_mask_head")


def finish(config: ConfigDict, kind: str) -> ConfigDict:
    """The full-size configs with their stages: SSP, SSP as the paper says, or AAVS.

    paper and aavs score under the protocol that the published numbers were computed with.
    """
    if kind != "base":
        config.protocol = "stepping_stones"
    stages = [config[name] for name in ("avs", "avss") if name in config]
    if kind == "aavs":
        if "avss" in config:
            config.avss.prompt.update({"truth": 1.0, "predicted": 0.0})
        return config
    config.model.vta = "joint"
    config.texts.tokeniser = "bert-base-uncased"
    config.texts.max_length = 128
    for stage in stages:
        stage.init_new = (*stage.init_new, *_SSP_NEW)
        stage.prompt.premask = True
        if kind == "paper":
            stage.criterion.post_mask = "shared"
            stage.prompt.update({"truth": 1.0, "predicted": 0.0})
        else:
            stage.criterion.post_mask = "head"
            stage.optim.bert = "adapters"
    config.avs.prompt.source = "flow" if kind == "paper" else "self"
    if kind == "paper":
        config.model.vta_visual = "clip"
        config.model.premask_form = "paper"
        config.flow.update(PAPER_FLOW)
        return config
    config.model.bert_adapters = True
    config.avs.prompt.update({"truth": 0.5, "predicted": 0.5})
    return config


# Method 4.1, literally: the greyscale of Perceiver IO's flow is above 0.
PAPER_FLOW = {
    "estimator": "perceiver",
    "threshold": "nonzero",
    "camera": "none",
    "smoothing": "mean",
    "despeckle": 1,
}


def small(config: ConfigDict) -> ConfigDict:
    """The size for two CPU cores, trained from scratch with every parameter free."""
    config.model.size = "small"
    config.data.stored_size = 96
    config.data.frame_size = 96
    # A visit takes one frame of a clip: a batch of 16 then holds 16 clips instead of three.
    config.data.frames_per_clip = 1
    config.data.augment.flip = 0.5
    config.data.augment.scale = (0.8, 1.25)
    config.data.augment.brightness = config.data.augment.contrast = 0.2
    return config


SMALL_STAGE = {
    "num_queries": 10,
    "prompt": {"source": "heard", "truth": 0.0, "predicted": 1.0},
    "batch_size": 16,
    "criterion": {"num_points": 1024},
    "listen": {"sounds": 1.0, "map": 10.0, "contrast": 0.2},
    "steps": 1000,
    "eval_every": 500,
    "optim": {
        "lr": 1.5e-3,
        "muon_lr": 1e-2,
        # Not the wide layers behind the audio encoder's convolutions: they learn soon enough, and
        # cost Muon more than all others together.
        "muon_on": "network/(encoder|pixel_decoder|mask_decoder)/",
        "warmup_steps": 50,
        "clip_norm": 1.0,
    },
}
# In place of pretrained weights.
SMALL_OBJECTS_STAGE = SMALL_STAGE | {
    "prompt": {"source": "none"},
    "listen": {"sounds": 1.0, "map": 0.0, "contrast": 0.0},
    "max_targets": 6,
}
SMALL_SEMANTIC_STAGE = SMALL_STAGE | {
    "init_from": "avs",
    # And what may be switched on for this stage alone.
    "init_new": ("class_head", "flow_prompt_embedding", "post_mask_head"),
    # Prompts from the ground truth alone, as AAVS trains: validation mIoU 38.5, not 46.7 (seed 0).
    "prompt": {"source": "stage1", "truth": 0.0, "predicted": 1.0},
    "steps": 700,
    "eval_every": 350,
    "optim": SMALL_STAGE["optim"] | {"lr": 1e-3, "muon_lr": 7e-3},
}
