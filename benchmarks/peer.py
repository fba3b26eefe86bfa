"""The peer in PyTorch: transformers' Mask2Former with AAVS's adapters and trainable parts.

AAVS is this class with adapters, a sound added to the queries and, in stage 2, a mask prompt. Sound
and prompt are left out here, which spares the peer a little work.
"""

import re
from collections.abc import Callable

import numpy as np
import torch
import transformers
from torch import nn

from ssp_jax.batch import AVBatch

# Swin's attention and MLP outputs, by their names in transformers 5 and 4.
_SWIN_OUTPUTS = re.compile(
    r"blocks\.\d+\.(attention\.o_proj|attention\.output\.dense|mlp\.fc2|output\.dense)$"
)
_DECODER_OUTPUTS = re.compile(r"self_attn\.(output_proj|out_proj)$")
_STAGES = [f"stage{stage}" for stage in range(1, 5)]


class Bottleneck(nn.Sequential):
    """C -> C / 4 -> ReLU -> C."""

    def __init__(self, channels: int):
        super().__init__(
            nn.Linear(channels, channels // 4), nn.ReLU(), nn.Linear(channels // 4, channels)
        )


class Adapted(nn.Module):
    """A projection with a residual bottleneck behind it."""

    def __init__(self, projection: nn.Linear):
        super().__init__()
        self.projection, self.adapter = projection, Bottleneck(projection.out_features)

    def forward(self, x):
        x = self.projection(x)
        return x + self.adapter(x)


def mask2former(num_labels: int, num_queries: int) -> nn.Module:
    """Mask2Former with Swin-B, random weights."""
    backbone = transformers.SwinConfig(
        embed_dim=128,
        depths=[2, 2, 18, 2],
        num_heads=[4, 8, 16, 32],
        window_size=12,
        drop_path_rate=0.0,
        out_features=_STAGES,
    )
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone, num_queries=num_queries, num_labels=num_labels
    )
    return transformers.Mask2FormerForUniversalSegmentation(config)


def _replace(model: nn.Module, pattern: re.Pattern, new: Callable[[nn.Linear], nn.Module]) -> None:
    for name in [name for name, _ in model.named_modules() if pattern.search(name)]:
        parent, _, attribute = name.rpartition(".")
        parent = model.get_submodule(parent)
        setattr(parent, attribute, new(getattr(parent, attribute)))


def aavs(stage: str) -> nn.Module:
    """Mask2Former with the adapters of AAVS's stage `avs` or `avss`."""
    model = mask2former(*((2, 30) if stage == "avs" else (71, 100)))
    encoder = model.model.pixel_level_module.encoder
    _replace(encoder, _SWIN_OUTPUTS, Adapted)

    def adapted(projection):
        bottleneck = Bottleneck(projection.out_features)
        return bottleneck if stage == "avs" else nn.Sequential(projection, bottleneck)

    _replace(model.model, _DECODER_OUTPUTS, adapted)
    return model


def train_only(model: nn.Module, phase: str) -> list[nn.Parameter]:
    """Freeze what AAVS's phase does not train ('all' trains everything); the rest."""
    encoder = "pixel_level_module.encoder."
    for name, parameter in model.named_parameters():
        new = re.search(r"queries_|class_predictor", name) or (
            encoder not in name and isinstance(_owner(model, name), Bottleneck)
        )
        in_encoder = encoder in name and ".adapter." in name
        parameter.requires_grad_(bool(phase == "all" or new or (phase == "phase2" and in_encoder)))
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _owner(model: nn.Module, name: str) -> nn.Module:
    """The module two levels above a parameter: of a Bottleneck's, the Bottleneck."""
    return model.get_submodule(name.rsplit(".", 2)[0])


def inputs(batch: AVBatch) -> dict:
    """A batch as the class takes it, masks at the frames' size."""
    frames = torch.from_numpy(np.array(batch.normalised()).transpose(0, 3, 1, 2).copy())
    labels = torch.from_numpy(np.array(batch.labels))[:, None].float()
    labels = nn.functional.interpolate(labels, frames.shape[-2:], mode="nearest")[:, 0].long()
    classes = [label.unique() for label in labels]
    masks = [
        (label[None] == present[:, None, None]).float()
        for label, present in zip(labels, classes, strict=True)
    ]
    return {"pixel_values": frames, "mask_labels": masks, "class_labels": classes}


def forward(model: nn.Module, batch: AVBatch) -> Callable[[], None]:
    """A forward pass."""
    model, frames = model.eval(), inputs(batch)["pixel_values"]

    def run():
        with torch.no_grad():
            return model(frames)

    return run


def train_step(model: nn.Module, phase: str, batch: AVBatch) -> Callable[[], float]:
    """One step of AdamW; returns the loss."""
    given, model = inputs(batch), model.train()
    optimizer = torch.optim.AdamW(train_only(model, phase), lr=1e-4, weight_decay=0.05)

    def run():
        optimizer.zero_grad()
        loss = model(**given).loss
        loss.backward()
        optimizer.step()
        return float(loss)

    return run
