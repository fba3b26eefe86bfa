"""Which part of the network a formula belongs to, by where it stands."""

import re
from collections.abc import Sequence

# The first pattern that is found in the functions that lead to a formula, joined as in
# 'train_step: loss_of > models/ssp: SSP.__call__ > models/swin: Swin.__call__'.
PARTS = {
    "deformable sampling": r"models/deformable_sampling",
    "Swin, softmax(qk)v": r"swin: WindowAttention.*models/attention: attend",
    "Swin, dense layers": r"models/swin: .*(/linear: |adapters: Adapter|swin: _channels_first)",
    "Swin, windows": r"models/swin: (WindowAttention|SwinBlock\._attend)",
    "Swin, rest": r"models/swin: ",
    "VGGish": r"models/vggish: ",
    "texts and VTA": r"models/(vta|bert|text_classes|clip_vision): ",
    "pixel decoder": r"models/(pixel_decoder|deformable_attention): ",
    "mask decoder": r"models/mask_decoder: ",
    "matching": r"losses/matching: |losses/mask_losses: _match_layers",
    "point losses": r"losses/",
    "network, rest": r"models/",
    "casts": r"train_step: cast_floats",
    "optimiser, checks": r"train_step: |optim: ",
}
ELSEWHERE = "no line of ours"


def part_of(places: Sequence[str]) -> str:
    """The part, of the places that `compiled_text.Program.places` gives."""
    path = " > ".join(places)
    if not path:
        return ELSEWHERE
    return next((part for part, pattern in PARTS.items() if re.search(pattern, path)), "else")
