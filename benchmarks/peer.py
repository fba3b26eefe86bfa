"""The peer in PyTorch: transformers' Mask2Former with AAVS's adapters and trainable parts.

AAVS is this class with adapters, a sound added to the queries and, in stage 2, a mask prompt. Sound
and prompt are left out here, which spares the peer a little work.
"""

import csv
import functools
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
import transformers
from PIL import Image
from torch import nn

from benchmarks.metrics import numpy_semantic
from ssp_jax.batch import IMAGENET_MEAN, IMAGENET_STD, AVBatch
from ssp_jax.data.log_mel import log_mel_windows

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
    return _with_targets(frames, labels)


def _with_targets(frames: torch.Tensor, labels: torch.Tensor) -> dict:
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


def avss_evaluation(batch: AVBatch) -> Callable[[], None]:
    """Label maps and scores of stage 2, frame by frame, as AAVS's test loop goes."""
    model, frames = aavs("avss").eval(), inputs(batch)["pixel_values"]
    resize = functools.partial(nn.functional.interpolate, mode="bilinear", align_corners=False)

    def run():
        for frame, label in zip(frames, batch.labels, strict=True):
            with torch.no_grad():
                outputs = model(frame[None])
                masks = resize(outputs.masks_queries_logits, frame.shape[-2:]).sigmoid()
                classes = outputs.class_queries_logits.softmax(-1)[..., :-1]
                scores = torch.einsum("nqk,nqhw->nkhw", classes, masks)
                scores = resize(scores, label.shape)
            numpy_semantic(scores[0].argmax(0).numpy(), label)

    return run


def train_step(model: nn.Module, phase: str) -> Callable[[dict], float]:
    """A step of AdamW on such `inputs`; returns the loss."""
    model = model.train()
    optimizer = torch.optim.AdamW(train_only(model, phase), lr=1e-4, weight_decay=0.05)

    def run(given):
        optimizer.zero_grad()
        loss = model(**given).loss
        loss.backward()
        optimizer.step()
        return float(loss)

    return run


def vggish() -> nn.Module:
    """VGGish, random weights: log-mel windows (N, 1, 96, 64) to (N, 128)."""
    layers, before = [], 1
    for channels, pooled in ((64, 1), (128, 1), (256, 0), (256, 1), (512, 0), (512, 1)):
        layers += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] * pooled
        before = channels
    layers += [nn.Flatten(), nn.Linear(12288, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(4096, 128)).eval()


class S4Clips(torch.utils.data.Dataset):
    """Training clips of S4 as downloaded, as AAVS's loader reads them: five frames, the one mask
    there is for each of them, and the log-mel windows of the sound."""

    def __init__(self, folder: Path):
        table = csv.DictReader((folder / "s4_meta_data.csv").open())
        rows = [row for row in table if row["split"] == "train"]
        self.data = folder / "s4_data"
        self.where = [(Path("train", row["category"]), row["name"]) for row in rows]

    def __len__(self):
        return len(self.where)

    def __getitem__(self, index):
        where, name = self.where[index]
        frames = self.data / "visual_frames" / where / name
        pixels = np.stack([self._picture(frames / f"{name}_{i}.png", "RGB") for i in range(1, 6)])
        mask = self._picture(self.data / "gt_masks" / where / name / f"{name}_1.png", "L")
        sound, _ = soundfile.read(self.data / "audio_wav" / where / f"{name}.wav", dtype="int16")
        scaled = (pixels.astype(np.float32) / 255 - IMAGENET_MEAN) / IMAGENET_STD
        frames = scaled.astype(np.float32).transpose(0, 3, 1, 2)
        return frames, (mask > 127).astype(np.int64), log_mel_windows(sound)[:5]

    def _picture(self, path, mode):
        return np.asarray(Image.open(path).convert(mode).resize((384, 384), Image.BILINEAR))


def s4_epoch(folder: Path, frames: int, batch_size: int, num_workers: int) -> Callable[[], int]:
    """Phase 1 on every training clip once, `frames` of each; returns the number of clips."""
    clips, sound = S4Clips(folder), vggish()
    loader = torch.utils.data.DataLoader(
        clips, batch_size, shuffle=True, num_workers=num_workers, drop_last=True
    )
    step = train_step(aavs("avs"), "phase1")

    def run():
        done = 0
        for pixels, masks, windows in loader:
            with torch.no_grad():
                sound(windows[:, :frames].flatten(0, 1)[:, None].float())
            labels = masks[:, None].expand(-1, frames, -1, -1).flatten(0, 1)
            step(_with_targets(pixels[:, :frames].flatten(0, 1), labels))
            done += len(pixels)
        return done

    return run
