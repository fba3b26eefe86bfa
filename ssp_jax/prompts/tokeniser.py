"""Texts of clips as token ids of BERT (method 4.5), and a small vocabulary of its kind."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from ssp_jax.errors import UserError
from ssp_jax.files import size_of, write_whole
from ssp_jax.json_files import read_object
from ssp_jax.places import run_path
from ssp_jax.prompts.texts import Texts

_JSON, _VOCABULARY, _OPTIONS_FILE = "tokenizer.json", "vocab.txt", "tokenizer_config.json"
_NORMALISER = {  # keys of tokenizer_config.json, and what the library calls them
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
OWN_VOCABULARY = 1000  # tokens of a vocabulary of the texts' own words, at most
_NEEDED = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_MAX_BYTES = 64 << 20
_MOST_TOKENS = 1 << 24  # far more than any vocabulary has
_SPECIAL = (*_NEEDED, "[MASK]")

_LOG = logging.getLogger(__name__)


class Tokeniser:
    """BERT's WordPiece: the ids of `transformers`' BertTokenizer from the same files.

    Attributes:
      name: the file it was read from, for messages.
      vocabulary_size: the highest id plus one.
    """

    def __init__(self, name: str | Path):
        """Read a vocabulary.

        Lower-casing and the like are as tokenizer_config.json beside it says, else as
        tokenizer.json itself; a vocab.txt alone is read as bert-base-uncased's.

        Args:
          name: tokenizer.json or vocab.txt, a folder with one of them, or a name on the Hugging
            Face hub (or in its cache), as "bert-base-uncased".

        Raises:
          UserError: nothing there, not BERT's, damaged, or the hub has it not or is not reached.
        """
        path = _file(name)
        backend = _from_json(path) if path.suffix == ".json" else _from_vocabulary(path)
        for attribute, value in _options(path).items():
            setattr(backend.normalizer, attribute, value)
        lacking = [token for token in _NEEDED if backend.token_to_id(token) is None]
        if lacking:
            raise UserError(f"{path}: a vocabulary of BERT has {', '.join(lacking)}, this has not")
        self.name, self._backend = str(path), _as_bert(backend)
        self.vocabulary_size = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        if self.vocabulary_size > _MOST_TOKENS:
            raise UserError(
                f"{path}: numbers a token {self.vocabulary_size - 1}, expected less than "
                f"{_MOST_TOKENS}"
            )

    def save(self, folder: str | Path) -> None:
        """Write it into `folder`, whole, so that it can be read without what it was read from.

        Raises:
          UserError: the folder cannot be written.
        """
        _write(run_path(folder) / _JSON, _serialized(self._backend))

    def digest(self) -> str:
        """Return the SHA-256 of what `save` writes, as hexadecimal digits."""
        return hashlib.sha256(_serialized(self._backend).encode()).hexdigest()

    def encode_pairs(self, texts: Sequence[Texts], max_length: int) -> dict[str, np.ndarray]:
        """Pairs as [CLS] A1 [SEP] A2 [SEP], the longer text cut first where both are too long.

        Two empty texts are [CLS] [SEP] [SEP], so that attention always has something to look at.

        Returns:
          ids (n, L) int32, types (n, L) int32 (0 up to the first [SEP], then 1), mask (n, L) bool
          (False where padded), with L = max_length.

        Raises:
          UserError: max_length is below 4.
        """
        if max_length < 4:
            raise UserError(f"length of texts: {max_length} tokens, expected 4 or more")
        self._backend.no_truncation()
        encodings = self._backend.encode_batch(list(texts))
        lengths = [len(encoding.ids) for encoding in encodings]
        too_long = [i for i, length in enumerate(lengths) if length > max_length]
        if too_long:
            _LOG.warning(
                "%.1f %% of the texts are cut to %d tokens, the longest had %d",
                100 * len(too_long) / len(texts),
                max_length,
                max(lengths),
            )
            self._backend.enable_truncation(max_length, strategy="longest_first")
            cut = self._backend.encode_batch([texts[i] for i in too_long])
            for i, encoding in zip(too_long, cut, strict=True):
                encodings[i] = encoding
        shape = len(texts), max_length
        ids = np.full(shape, self._backend.token_to_id("[PAD]"), np.int32)
        types, mask = np.zeros(shape, np.int32), np.zeros(shape, bool)
        for row, encoding in enumerate(encodings):
            length = len(encoding.ids)
            ids[row, :length], types[row, :length] = encoding.ids, encoding.type_ids
            mask[row, :length] = True
        return {"ids": ids, "types": types, "mask": mask}


def train_tokeniser(
    texts: Sequence[Texts], folder: str | Path, vocabulary_size: int = OWN_VOCABULARY
) -> Tokeniser:
    """A tokeniser of the texts' own words, stored in `folder`; the same for the same texts.

    Lower-case WordPiece of at most `vocabulary_size` tokens (more only where single characters and
    special tokens alone are more). What is stored already is taken if it is the same.

    Raises:
      UserError: no texts, the folder cannot be written, or it has a tokeniser that differs.
    """
    words = [text for pair in texts for text in pair if text.strip()]
    if not words:
        raise UserError("tokeniser: there is no text to train it on (all clips' texts are empty)")
    path = Path(folder) / _JSON
    stored = _serialized(_train(words, vocabulary_size))
    if not path.exists():
        _write(path, stored)
    if _serialized(Tokeniser(path)._backend) != stored:
        raise UserError(
            f"{path}: a tokeniser of other texts, or of other settings, than now. Networks trained "
            "with it need it; name another folder, or move it away"
        )
    return Tokeniser(path)


def check_vocabulary(tokeniser: Tokeniser, num_embeddings: int, where: str) -> None:
    """Does every id have a row in BERT's table of `num_embeddings`? `where`: what holds the table.

    Raises:
      UserError: the vocabulary is larger.
    """
    size = tokeniser.vocabulary_size
    if size > num_embeddings:
        raise UserError(
            f"{tokeniser.name}: a vocabulary of {size} tokens, but {where} has embeddings of "
            f"{num_embeddings}. Name the vocabulary that these weights were trained with"
        )
    if size < 0.9 * num_embeddings:  # some tables are padded to a round number
        _LOG.warning(
            "%s: %d tokens for the %d embeddings of %s: is it their vocabulary?",
            tokeniser.name,
            size,
            num_embeddings,
            where,
        )


def _file(name: str | Path) -> Path:
    path = run_path(name)
    if not path.exists():
        path = _from_hub(str(name))
    if path.is_dir():
        found = [path / known for known in (_JSON, _VOCABULARY) if (path / known).is_file()]
        if not found:
            raise UserError(f"{path}: has neither {_JSON} nor {_VOCABULARY}")
        path = found[0]
    if not path.is_file():
        raise UserError(f"{path}: expected a file")
    if size_of(path) > _MAX_BYTES:
        raise UserError(f"{path}: more than {_MAX_BYTES >> 20} MiB; BERT's vocabularies have one")
    if path.suffix not in (".json", ".txt"):
        raise UserError(f"{path}: expected {_JSON}, {_VOCABULARY}, or a folder with one of them")
    return path


def _from_hub(name: str) -> Path:
    # Imported here: a run whose files are at hand needs none of it.
    from huggingface_hub import snapshot_download

    try:
        files = [_JSON, _VOCABULARY, _OPTIONS_FILE]
        return Path(snapshot_download(name, allow_patterns=files))
    except (OSError, ValueError) as error:
        raise UserError(
            f"tokeniser {name!r}: no such file or folder, and not to be had from the Hugging Face "
            f"hub or its cache ({str(error).strip().splitlines()[0][:200]}). Without network, name "
            f"a folder with {_JSON} or {_VOCABULARY}"
        ) from error


def _options(path: Path) -> dict[str, bool]:
    """Attributes of the normaliser that the file beside the vocabulary sets."""
    path = path.with_name(_OPTIONS_FILE)
    if not path.is_file():
        return {}
    options = read_object(path)
    given = {key: options[key] for key in _NORMALISER if options.get(key) is not None}
    wrong = [f"{key} is {value!r}" for key, value in given.items() if not isinstance(value, bool)]
    if wrong:
        raise UserError(f"{path}: {', '.join(wrong)}, expected true or false")
    return {_NORMALISER[key]: value for key, value in given.items()}


def _from_json(path: Path) -> Tokenizer:
    try:
        backend = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # what the library raises is a bare Exception
        raise UserError(f"{path}: cannot be read as a tokeniser ({error})") from error
    wordpiece = isinstance(backend.model, models.WordPiece)
    if not wordpiece or not isinstance(backend.normalizer, normalizers.BertNormalizer):
        raise UserError(
            f"{path}: expected BERT's WordPiece and normaliser, found "
            f"{type(backend.model).__name__} and {type(backend.normalizer).__name__}"
        )
    return backend


def _from_vocabulary(path: Path) -> Tokenizer:
    try:
        tokens = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    tokens = [token.rstrip("\r") for token in tokens]
    tokens = tokens[:-1] if not tokens[-1] else tokens
    if len(set(tokens)) < len(tokens):
        twice = next(token for token in tokens if tokens.count(token) > 1)
        raise UserError(f"{path}: has {twice!r} twice, expected one token a line, once each")
    return _wordpiece({token: number for number, token in enumerate(tokens)})


def _wordpiece(vocabulary: dict[str, int]) -> Tokenizer:
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.add_special_tokens([token for token in _SPECIAL if token in vocabulary])
    return backend


def _as_bert(backend: Tokenizer) -> Tokenizer:
    backend.no_padding()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return backend


def _train(words: list[str], size: int) -> Tokenizer:
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    # The library numbers '##x' in the order of a hash table, anew in each process, and equal
    # counts are decided by these numbers: given as special tokens, they have fixed ones.
    letters = {c for text in words for c in backend.normalizer.normalize_str(text)}
    pieces = [f"##{letter}" for letter in sorted(letters) if not letter.isspace()]
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=[*_SPECIAL, *pieces], show_progress=False
    )
    backend.train_from_iterator(words, trainer)
    return _as_bert(_wordpiece(backend.get_vocab()))


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error})") from error


def _serialized(backend: Tokenizer) -> str:
    backend.no_truncation()
    return backend.to_str(pretty=True)
