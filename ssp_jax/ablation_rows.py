"""The rows of the ablation tables: each a set of overrides, and the paper's figures beside them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from ssp_jax.config import model_overrides
from ssp_jax.errors import UserError
from ssp_jax.models.sizes import SIZES
from ssp_jax.report.published import AAVS, SSP
from ssp_jax.run_folder import stage_names

Overrides = Mapping[str, Any]

# '*' stands for every stage that runs; a stage that the config does not have is passed over.
_NO_FLOW = {"*.prompt.premask": False}
# Prompts as in AAVS: none in the first stage, the first stage's masks in the second.
_NO_PRE = _NO_FLOW | {
    "avs.prompt.source": "none",
    "avss.prompt.source": "stage1",
}
_NO_POST = {"*.criterion.post_mask": "none"}
_NO_TEXT = {"model.vta": "none"}


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
      title: as printed; also names the row's folder.
      overrides: of the config given, which is full SSP.
      parameters_of: the row trains nothing; it scores this row's parameters under the overrides.
      paper: mIoU in per cent by test set, where the paper has it (table 1 and 3 of the paper).
    """

    title: str
    overrides: Overrides = dataclasses.field(default_factory=dict)
    parameters_of: "Row | None" = None
    paper: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def folder(self) -> str:
        """The title in letters that every file system takes."""
        kept = "".join(c if c.isalnum() else "-" for c in self.title.replace("+", "with"))
        return "-".join(part for part in kept.split("-") if part)


def _paper(s4: float, ms3: float, avss: float) -> dict[str, float]:
    return {"s4": s4, "ms3": ms3, "avss": avss}


FULL = Row("SSP, full", {}, paper=SSP.miou)
_CROSS = {"model.vta": "cross_attention"}
_TRUTH = {"*.prompt.truth": 1.0, "*.prompt.predicted": 0.0}
_TRUTH_ONLY = Row("full, trained with the truth alone", _TRUTH)
TABLES: dict[str, tuple[Row, ...]] = {
    "method": (
        Row("AAVS", _NO_PRE | _NO_POST | _NO_TEXT, paper=AAVS.miou),
        Row("+ pre-mask", _NO_POST | _NO_TEXT, paper=_paper(84.1, 69.5, 49.2)),
        Row("+ pre-mask + post-mask", _NO_TEXT, paper=_paper(85.0, 70.2, 49.4)),
        Row("+ text, no VTA", _NO_PRE | _NO_POST | _CROSS, paper=_paper(83.7, 68.1, 48.6)),
        Row("+ text + VTA", _NO_PRE | _NO_POST, paper=_paper(84.3, 69.8, 49.0)),
        Row("full without post-mask", _NO_POST, paper=_paper(84.5, 70.4, 49.7)),
        FULL,
    ),
    "pre_mask": (
        Row("+ reference without flow", _NO_FLOW | _NO_POST | _NO_TEXT),
        Row("full, reference without flow", _NO_FLOW),
        Row("full, flow and reference in one map", {"model.premask_form": "paper"}),
    ),
    "vta": (
        Row("full, VTA cross_attention", _CROSS),
        Row("full, VTA qformer", {"model.vta": "qformer"}),
    ),
    "post_mask_weight": tuple(
        Row(f"full, post-mask weight {weight}", {"*.criterion.post_mask_weight": float(weight)})
        for weight in (5, 10, 20)
    ),
    # What a reference of its own in training is worth, in prediction with and without the truth.
    "reference": (
        _TRUTH_ONLY,
        Row(
            "full, trained with the truth alone, reference truth (oracle)",
            _TRUTH | {"*.prompt.source": "truth"},
            parameters_of=_TRUTH_ONLY,
        ),
    ),
    "texts": tuple(
        Row(f"full, scored with {how} texts", {"texts.vary": how}, parameters_of=FULL)
        for how in ("empty", "shuffled", "noisy")
    ),
    "inference": (
        *(
            Row(f"full, reference {source}", {"*.prompt.source": source}, parameters_of=FULL)
            for source in ("flow", "self", "heard")
        ),
        Row("full, reference stage1", {"avss.prompt.source": "stage1"}, parameters_of=FULL),
        Row("full, reference truth (oracle)", {"*.prompt.source": "truth"}, parameters_of=FULL),
    ),
}


def _applies(config: ConfigDict, key: str) -> bool:
    return key[0] == "*" or key.split(".")[0] in config


def possible(config: ConfigDict, row: Row) -> bool:
    """Has the config what the row is about: a stage of it, and the map by which it could hear?"""
    stages = not row.overrides or any(_applies(config, key) for key in row.overrides)
    heard = "heard" in row.overrides.values()
    model = SIZES[config.model.size] | model_overrides(config)
    return stages and not (heard and not model.get("audio_visual_map"))


def row_config(config: ConfigDict, row: Row) -> ConfigDict:
    """The config with the row's overrides.

    A prompt from flow alone, or from a first pass that saw it, goes with the pre-mask.
    """
    config = config.copy_and_resolve_references()
    stages = stage_names(config)
    for key, value in row.overrides.items():
        if not _applies(config, key):
            continue
        names = [key.replace("*", stage, 1) for stage in stages] if key[0] == "*" else [key]
        config.update_from_flattened_dict(dict.fromkeys(names, value))
    for stage in stages:
        prompt = config[stage].prompt
        if not prompt.premask and prompt.source in ("flow", "self"):
            prompt.source = "none"
    return config


def check_full(config: ConfigDict) -> None:
    """Does the config have what the rows turn off, so that they differ?

    Raises:
      UserError: it has no pre-mask, no post-mask or no VTA.
    """
    stages = [config[name] for name in stage_names(config)]
    lacking = [
        what
        for what, there in (
            ("pre-mask (prompt.premask)", any(stage.prompt.premask for stage in stages)),
            (
                "post-mask (criterion.post_mask)",
                any(stage.criterion.post_mask != "none" for stage in stages),
            ),
            ("VTA (model.vta)", (config.model.vta or "none") != "none"),
        )
        if not there
    ]
    if lacking:
        raise UserError(
            f"--config: an ablation starts from full SSP, this config has no {', '.join(lacking)}; "
            "configs/demo.py:ssp has them all, and so have s4.py, ms3.py and avss.py"
        )
