"""Other projects' weights into a weight folder: one function a kind of source."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssp_jax.errors import UserError
from ssp_jax.weights import (
    aavs,
    bert,
    clip_vision,
    infer,
    mask2former,
    perceiver_flow,
    swin,
    vggish,
)
from ssp_jax.weights.folder import check_new, save_weights
from ssp_jax.weights.formats import TENSORFLOW
from ssp_jax.weights.names import kind_of
from ssp_jax.weights.rules import Arrays, is_one_of, to_params
from ssp_jax.weights.sources import Source

NETWORK = "network/"


class Converted(NamedTuple):
    """Weights as this project has them.

    Attributes:
      params: by path in `SSP`. model: the arguments of `SSP` that they tell. ignored: templates of
      names that were left out, and why. unused: source arrays to keep for an export. missing:
      parts of the model that the source has not. root: where the params' paths start; what is no
      part of `SSP` has its own, and `model` are its own arguments then.
    """

    params: dict[str, np.ndarray]
    model: dict[str, Any]
    ignored: dict[str, str]
    unused: Mapping[str, np.ndarray] = {}
    missing: tuple[str, ...] = ()
    root: str = NETWORK


def _left_out(names: Iterable[str], ignored: Mapping[str, str]) -> dict[str, str]:
    names = list(names)
    return {
        template: reason
        for template, reason in ignored.items()
        if any(is_one_of(name, [template]) for name in names)
    }


def _does_not_fit(what: str) -> str:
    return f"these are not the weights of {what}, or not all of them:"


def _mask2former(state: Arrays) -> Converted:
    model = infer.mask2former_arguments(state)
    if any(name.startswith(aavs.AUDIO) for name in state) or infer.stage_of(model):
        raise UserError("there are adapters or an audio projection in it: use --source=aavs")
    params = to_params(
        state,
        mask2former.RULES,
        {k: v for k, v in aavs.model_shapes(model).items() if not k.startswith("audio_projection")},
        accounted=mask2former.IGNORED,
        what="Mask2Former with a Swin backbone",
        hint=_does_not_fit("Mask2Former with a Swin backbone"),
    )
    return Converted(
        params,
        model,
        _left_out(state, mask2former.IGNORED),
        missing=("adapters", "audio_encoder", "audio_projection"),
    )


def _aavs(state: Arrays) -> Converted:
    state = aavs.without_prefixes(state)
    model = infer.mask2former_arguments(state)
    if infer.stage_of(model) is None or "audio_hidden" not in model:
        raise UserError(
            "there are no adapters (avs_adapt) or no audio_proj in it: not AAVS. A plain "
            "Mask2Former is --source=mask2former"
        )
    params = aavs.aavs_params(state, model)
    constants = aavs.constants(model)
    unused = {}
    for name, value in state.items():
        if name in constants and np.array_equal(value, constants[name]):
            continue
        if is_one_of(name, [mask2former.POSITION_INDEX]):
            raise UserError(f"{name}: numbers the positions of a window in another way than Swin")
        if is_one_of(name, mask2former.IGNORED) or aavs.is_replaced(name, model):
            unused[name] = value
    ignored = _left_out(state.keys() - unused.keys(), mask2former.IGNORED)
    return Converted(params, model, ignored, unused, missing=("audio_encoder",))


def _swin(state: Arrays) -> Converted:
    prefix = "swin." if "swin.embeddings.norm.weight" in state else ""
    names = {name.removeprefix(prefix): value for name, value in state.items()}
    model = infer.swin_arguments(names)
    backbone = any(name.startswith("hidden_states_norms.") for name in names)
    rules = swin.BACKBONE_RULES if backbone else swin.CLASSIFIER_RULES
    ignored = swin.BACKBONE_IGNORED if backbone else swin.IGNORED
    return _encoder(names, model, rules, ignored, all_norms=backbone)


def _swin_original(state: Arrays) -> Converted:
    model = infer.original_swin_arguments(state)
    return _encoder(state, model, swin.ORIGINAL_RULES, swin.ORIGINAL_IGNORED, all_norms=False)


def _encoder(state: Arrays, model, rules, ignored, *, all_norms: bool) -> Converted:
    params = to_params(
        state,
        rules,
        swin.encoder_shapes(model, all_norms=all_norms),
        accounted=ignored,
        what="Swin",
        hint=_does_not_fit("Swin"),
    )
    norms = () if all_norms else tuple(f"encoder/output_norms/{i}" for i in range(swin.STAGES - 1))
    missing = ("encoder's adapters", *norms, "everything but the encoder")
    return Converted(params, model, _left_out(state, ignored), missing=missing)


def _vggish(state: Arrays) -> Converted:
    if state.keys() <= vggish.PCA_NAMES:
        raise UserError(
            "these are the parameters of the post-processing (PCA), which this project does not "
            "use. The network is in vggish-10086976.pth"
        )
    model = {"audio_width": infer.vggish_width(state)}
    params = to_params(
        state,
        vggish.RULES,
        vggish.shapes(model["audio_width"]),
        accounted=vggish.IGNORED,
        what="VGGish",
        hint=_does_not_fit("VGGish"),
    )
    ignored = _left_out(state, vggish.IGNORED)
    return Converted(params, model, ignored, missing=("everything but the audio encoder",))


def _perceiver_flow(state: Arrays, config: Mapping[str, Any] | None) -> Converted:
    model = infer.perceiver_flow_arguments(state, config)
    what = "Perceiver for optical flow"
    params = to_params(
        state,
        perceiver_flow.RULES,
        perceiver_flow.shapes(model),
        what=what,
        hint=_does_not_fit(what),
    )
    return Converted(params, model, {}, root=perceiver_flow.ROOT)


def _bert(state: Arrays, config: Mapping[str, Any] | None) -> Converted:
    names = {name.removeprefix("bert."): value for name, value in state.items()}
    flax = bert.FLAX_WORDS in names
    rules = bert.OLD_RULES if bert.OLD_NORM in names else bert.RULES
    model = bert.bert_arguments(names, config, table="embedding" if flax else "weight")
    params = to_params(
        names,
        bert.FLAX_RULES if flax else rules,
        bert.shapes(model),
        what="BERT",
        hint=_does_not_fit("BERT"),
    )
    missing = ("its adapters", "its queries and their layers", "everything but vta/bert")
    return Converted(params, model, {}, missing=missing)


def _qformer(state: Arrays, config: Mapping[str, Any] | None) -> Converted:
    model = bert.qformer_arguments(state, config)
    params = to_params(
        state,
        bert.QFORMER_RULES,
        bert.shapes(model),
        what="BLIP-2's Q-Former",
        hint=_does_not_fit("BLIP-2's Q-Former"),
    )
    missing = ["its adapters", "its token types", "everything but vta/bert"]
    if "vocabulary" not in model:
        missing.insert(0, "what only text uses (words, positions, feed-forward networks)")
    return Converted(params, model, {}, missing=tuple(missing))


def _clip_vision(state: Arrays, config: Mapping[str, Any] | None) -> Converted:
    names = {name.removeprefix(clip_vision.PREFIX): value for name, value in state.items()}
    model = clip_vision.clip_vision_arguments(names, config)
    params = to_params(
        names,
        clip_vision.RULES,
        clip_vision.shapes(model),
        what="CLIP's image encoder",
        hint=_does_not_fit("CLIP's image encoder"),
    )
    return Converted(params, model, {}, root=clip_vision.ROOT)


# Kinds of `_SIZED_BY_CONFIG` take what config.json says, too.
KINDS: dict[str, Callable[..., Converted]] = {
    "mask2former": _mask2former,
    "aavs": _aavs,
    "swin": _swin,
    "swin-original": _swin_original,
    "vggish": _vggish,
    "perceiver_flow": _perceiver_flow,
    "bert": _bert,
    "qformer": _qformer,
    "clip_vision": _clip_vision,
}
_WITH_CONFIG = ("mask2former", "swin")
_SIZED_BY_CONFIG = ("perceiver_flow", "bert", "qformer", "clip_vision")
# Beginnings of names that are not read, and why: a language model is far larger than a Q-Former.
_SKIPPED = {
    "bert": bert.SKIPPED,
    "qformer": bert.QFORMER_SKIPPED,
    "clip_vision": clip_vision.SKIPPED,
}
TENSORFLOW_KINDS = ("vggish-tf",)


def import_weights(kind: str, path: str | Path, out: str | Path) -> dict[str, Any]:
    """Convert a file or a folder of weights into the new weight folder `out`.

    Returns:
      What is written to weights.json: 'source' (the kind), 'files' (name, bytes, sha256), 'model'
      (arguments of `SSP`, or of a model of its own, that the weights tell), 'stage' (AAVS's, else
      None), 'parameters' (their number by module), 'missing' (parts of the model that the source
      has not), 'ignored' (names in the source that were left out, and why), 'kept' (names in
      unused.safetensors), 'notes' (what was decided in reading, a line each).

    Raises:
      UserError: `out` exists, or the source is missing, damaged or not of this kind. Nothing is
        written then.
    """
    if kind in TENSORFLOW_KINDS:
        raise UserError(f"--source={kind}: {TENSORFLOW}")
    check_new(out)
    skip = _SKIPPED.get(kind, {})
    source = Source(path, skip)
    try:
        arrays = source.arrays
        if kind in _WITH_CONFIG:
            arrays, renamed = swin.older_names(arrays)
            if renamed:
                source.notes.append(f"{renamed} names are those of transformers 5's modules")
        sizes = (source.config,) if kind in _SIZED_BY_CONFIG else ()
        converted = KINDS[kind](arrays, *sizes)
        if source.config is not None and kind in _WITH_CONFIG:
            infer.check_config(source.config, converted.model, str(source.config_path))
    except (UserError, ValueError) as error:
        # ValueError: the sizes told by the weights are none that the model can have.
        known = kind_of(list(source.arrays))
        other = known not in (None, kind)
        said = f"the names in it are those of {known}: use --source={known}" if other else error
        raise UserError(f"{path}, read as {kind}: {said}") from error
    facts = {
        "source": kind,
        "files": source.facts(),
        "model": converted.model,
        "stage": infer.stage_of(converted.model) if kind == "aavs" else None,
        "parameters": _count(converted),
        "missing": list(converted.missing),
        "ignored": converted.ignored
        | {f"{name}*": reason for name, reason in skip.items() if name in source.skipped},
        "kept": sorted(converted.unused),
        "notes": source.notes,
    }
    arrays = {converted.root + name: value for name, value in converted.params.items()}
    save_weights(out, arrays, facts, converted.unused)
    return facts


def _count(converted: Converted) -> dict[str, int]:
    counts: dict[str, int] = {}
    for path, value in converted.params.items():
        module = converted.root + path.partition("/")[0]
        counts[module] = counts.get(module, 0) + value.size
    return counts
