"""What a run reads beside its clips: flow masks, texts, CLIP's tokens; made on first use."""

import dataclasses
import functools
import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from ssp_jax.clip_tokens import (
    HOW_TO_GET,
    ClipTokenStore,
    add_clip_tokens,
    clip_facts,
    open_clip_tokens,
)
from ssp_jax.data.datasets import DataSets
from ssp_jax.data.sources import ClipSource
from ssp_jax.errors import UserError
from ssp_jax.flow.estimators import Estimator, make_estimator
from ssp_jax.flow.mask import flow_masks
from ssp_jax.flow.store import FlowStore, add_flow, open_flow
from ssp_jax.processes import in_turn
from ssp_jax.prompts.texts import (
    NO_TEXTS,
    VARIATIONS,
    Texts,
    mirrored,
    read_text_file,
    read_texts,
    vary_texts,
)
from ssp_jax.prompts.tokeniser import Tokeniser, train_tokeniser
from tfds_builders.prepare import GENERATED

_LOG = logging.getLogger(__name__)
_TOKENISER = "tokeniser"  # folder beside the prepared clips


@dataclasses.dataclass(frozen=True)
class FlowMasks:
    """The flow masks (M_O, method 4.1) of a source's clips; settings of `flow.mask.flow_masks`."""

    store: FlowStore
    settings: tuple[tuple[str, Any], ...]

    def read(self, clip: int) -> UInt8[np.ndarray, "frames h w"]:
        """0 or 255, of all frames of a clip."""
        return flow_masks(self.store.read(clip), **dict(self.settings))


def check_companions(config: ConfigDict, benchmarks: Collection[str]) -> None:
    """Can texts and CLIP's tokens be had, as far as that is known before data are prepared?

    Args:
      benchmarks: those that the run reads.

    Raises:
      UserError: no tokeniser is named, and the data are not the built-in benchmark's; no weights of
        CLIP are named, or training moves frames about.
    """
    if (config.model.vta or "none") == "none":
        return
    problems, augment = [], config.data.augment
    generated = len(benchmarks) == 1 and set(benchmarks) <= set(GENERATED)
    if not config.texts.tokeniser and not (generated and not config.texts.file):
        problems.append(
            "config.texts.tokeniser is empty: name BERT's vocabulary, as bert-base-uncased, or a "
            "folder with its tokenizer.json or vocab.txt. Only the built-in benchmark with texts "
            "of its own has one of its own"
        )
    if config.model.vta_visual == "clip" and not config.clip.weights:
        problems.append(
            "config.clip.weights is empty, but config.model.vta_visual=clip needs CLIP's image "
            f"encoder: name {HOW_TO_GET}"
        )
    if config.model.vta_visual == "clip" and (augment.flip > 0 or tuple(augment.scale) != (1, 1)):
        problems.append(
            f"config.data.augment.flip={augment.flip}, scale={tuple(augment.scale)}: CLIP's tokens "
            "are kept of the frames as they are; set flip=0 and scale=(1, 1), or "
            "config.model.vta_visual=swin"
        )
    if problems:
        raise UserError("\n".join(problems))


def check_inputs(config: ConfigDict, *, flow: bool, texts: bool) -> None:
    """Look whether the files are there that a run reads beside its data, as the config names them.

    Args:
      flow, texts: whether the run reads these; CLIP's tokens with texts.

    Raises:
      UserError: one is missing, damaged or of another kind; see `make_estimator`, `Tokeniser`,
        `read_text_file`, `clip_facts`.
    """
    if flow:
        flow_settings(config)
    if not texts:
        return
    if config.texts.vary not in VARIATIONS:
        known = ", ".join(VARIATIONS)
        raise UserError(f"config.texts.vary={config.texts.vary!r}: expected one of {known}")
    if config.texts.tokeniser:
        Tokeniser(config.texts.tokeniser)
    if config.texts.file:
        read_text_file(config.texts.file)
    if config.model.vta_visual == "clip":
        clip_facts(Path(config.clip.weights))


def flow_settings(config: ConfigDict) -> tuple[Estimator, int, dict[str, Any]]:
    """Read `config.flow`: estimator, size of its flows, arguments of `flow.mask.flow_masks`.

    Raises:
      UserError: see `make_estimator`.
    """
    settings = config.flow.to_dict()
    name, weights, size = (settings.pop(key) for key in ("estimator", "weights", "size"))
    return make_estimator(name, weights or None), size, settings


class Companions:
    """What lies beside the clips that 'benchmark:split' words name, each made once."""

    def __init__(self, config: ConfigDict, data: DataSets, words: Sequence[str]):
        """`words`: all that the run reads, so that a file of texts is judged as a whole.

        Raises:
          UserError: see `check_companions`.
        """
        check_companions(config, data.folders)
        self._config, self._data, self._words = config, data, tuple(words)
        self._flow_masks: dict[str, FlowMasks] = {}
        self._tokens: dict[str, dict[str, np.ndarray]] = {}
        self._visual_tokens: dict[str, ClipTokenStore] = {}

    def flow_masks(self, words: str) -> FlowMasks:
        """Open the masks of the clips of `words`; flow that is not stored yet is estimated.

        Raises:
          UserError: see `make_estimator`, `add_flow`, `open_flow`.
        """
        if words not in self._flow_masks:
            estimator, size, settings = flow_settings(self._config)
            source = self._data.source(words)
            noted = self._config.data.max_bad_clips > 0
            in_turn(lambda: add_flow(source, estimator, size=size, note_bad_clips=noted))
            masks = FlowMasks(open_flow(source, estimator.name), tuple(sorted(settings.items())))
            self._flow_masks[words] = masks
        return self._flow_masks[words]

    @functools.cached_property
    def clip_facts(self) -> dict[str, Any]:
        """What CLIP's tokens depend on, see `clip_tokens.clip_facts`.

        Raises:
          UserError: the weights are of no use.
        """
        return clip_facts(Path(self._config.clip.weights))

    def visual_tokens(self, words: str) -> ClipTokenStore:
        """CLIP's tokens of the clips of `words`, computed now where they are not stored yet.

        Raises:
          UserError: see `add_clip_tokens`, `open_clip_tokens`.
        """
        if words not in self._visual_tokens:
            source, weights = self._data.source(words), Path(self._config.clip.weights)
            in_turn(lambda: add_clip_tokens(source, weights))
            self._visual_tokens[words] = open_clip_tokens(source, weights)
        return self._visual_tokens[words]

    @functools.cached_property
    def tokeniser(self) -> Tokeniser:
        """What `config.texts.tokeniser` names, or one of the built-in benchmark's own words.

        Raises:
          UserError: see `Tokeniser`.
        """
        if self._config.texts.tokeniser:
            return Tokeniser(self._config.texts.tokeniser)
        (folder,) = self._data.folders.values()
        path = Path(folder) / _TOKENISER
        return in_turn(lambda: Tokeniser(path) if path.exists() else self._make_tokeniser(path))

    def _make_tokeniser(self, path: Path) -> Tokeniser:
        return train_tokeniser(_own_texts(ClipSource([(path.parent, "train")])), path)

    @functools.cached_property
    def _from_file(self) -> dict[str, Texts]:
        sources = [self._data.source(words) for words in self._words]
        uids = list(dict.fromkeys(uid for source in sources for uid in source.table.uid))
        return dict(zip(uids, read_texts(self._config.texts.file, uids), strict=True))

    def texts(self, words: str) -> dict[str, np.ndarray]:
        """Tokens of the clips of `words`, see `Beside.texts`.

        Raises:
          UserError: see `read_texts`, `Tokeniser`, `vary_texts`.
        """
        if words not in self._tokens:
            config, source = self._config.texts, self._data.source(words)
            uids = source.table.uid
            texts = [self._from_file[uid] for uid in uids] if config.file else _own_texts(source)
            texts = vary_texts(texts, uids, config.vary, self._config.seed, config.noise)
            empty = sum(pair == NO_TEXTS for pair in texts)
            if empty and config.vary != "empty":
                _LOG.warning("%s: %d of %d clips have no texts", words, empty, len(texts))
            rows = [*texts, NO_TEXTS, *mirrored(texts), NO_TEXTS]
            pairs = self.tokeniser.encode_pairs(rows, config.max_length)
            self._tokens[words] = {
                f"text_{name}": array.reshape(2, len(texts) + 1, -1)
                for name, array in pairs.items()
            }
        return self._tokens[words]

    def plain_texts(self, words: str, clips: Sequence[int]) -> list[Texts]:
        """The texts of some clips of `words` in words, before `config.texts.vary`.

        Raises:
          UserError: see `read_texts`.
        """
        source = self._data.source(words)
        if self._config.texts.file:
            return [self._from_file[source.table.uid[clip]] for clip in clips]
        return [source[clip].texts for clip in clips]


def _own_texts(source: ClipSource) -> list[Texts]:
    return [source[index].texts for index in range(len(source))]
