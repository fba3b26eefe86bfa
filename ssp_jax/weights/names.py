"""What the names in a weight file tell: what was wrapped around the model, and which kind it is."""

import re
from collections.abc import Sequence

# A name that every file of a kind has, the kinds whose names others hold as well last. What stands
# before it is no part of the model: Lightning's 'model.', or whatever the training code called it.
_MARKS = {
    "aavs": r"audio_proj\.0\.weight",
    "mask2former": r"model\.transformer_module\.queries_features\.weight",
    "perceiver_flow": r"perceiver\.embeddings\.latents",
    "qformer": r"query_tokens",
    "clip_vision": r"(vision_model\.)?embeddings\.patch_embedding\.weight",
    "swin": r"(swin\.)?encoder\.layers\.0\.blocks\.0\.attention\.(self|relative_position_bias)"
    r"\.relative_position_bias_table",
    "swin-original": r"layers\.0\.blocks\.0\.attn\.relative_position_bias_table",
    "vggish": r"embeddings\.4\.weight",
    "bert": r"(bert\.)?embeddings\.word_embeddings\.(weight|embedding)",
}
_BEFORE_MARKS = {kind: re.compile(rf"(?P<before>(?:[^.]+\.)*?){m}") for kind, m in _MARKS.items()}
_ADAPTERS = re.compile(r"\.(avs_adapt|swin_adapt_\d)\.")
# What PyTorch puts into names, wherever a module is wrapped: torch.compile, FSDP, checkpointing.
_INSIDE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_DISTRIBUTED = "module."
_AVERAGED = "n_averaged"  # of torch.optim.swa_utils.AveragedModel, whose model is 'module'


def unwrapped(names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return each name without what was wrapped around the model, and a line on what was taken off.

    Names stay as they are where two would become one.
    """
    new, lines = {name: name for name in names}, []
    if _AVERAGED in new and all(n == _AVERAGED or n.startswith(_DISTRIBUTED) for n in names):
        del new[_AVERAGED]
        lines.append(f"averaged weights (AveragedModel): {_AVERAGED} left out")
    for part in _INSIDE:
        inside = {
            old: re.sub(rf"(?<![^.]){re.escape(part)}", "", name) for old, name in new.items()
        }
        _take(new, inside, part, lines)
    while (prefix := _prefix(list(new.values()))) and _take(
        new, {old: name.removeprefix(prefix) for old, name in new.items()}, prefix, lines
    ):
        pass
    return new, lines


def _take(new: dict[str, str], changed: dict[str, str], part: str, lines: list[str]) -> bool:
    count = sum(changed[old] != name for old, name in new.items())
    if not count or len(set(changed.values())) < len(changed) or not all(changed.values()):
        return False
    new |= changed
    lines.append(f"'{part}' taken off {count} names")
    return True


def _prefix(names: Sequence[str]) -> str:
    """Return what all names begin with and no kind's names do."""
    prefix = next((before for _, before in _marked(names)), "")
    if not prefix and all(name.startswith(_DISTRIBUTED) for name in names):
        prefix = _DISTRIBUTED
    return prefix if all(name.startswith(prefix) for name in names) else ""


def _marked(names: Sequence[str]):
    for kind, pattern in _BEFORE_MARKS.items():
        found = [match["before"] for match in map(pattern.fullmatch, names) if match]
        if found:
            yield kind, min(found, key=len)


def kind_of(names: Sequence[str]) -> str | None:
    """Return the kind of source that has such names, None where it is not known."""
    kind, before = next(_marked(names), (None, ""))
    if kind == "mask2former" and any(map(_ADAPTERS.search, names)):
        return "aavs"
    return None if before else kind
