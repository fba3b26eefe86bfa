"""Token ids as BERT's, from any of its files, and a vocabulary of a data set's own."""

import json
import logging
import random
import subprocess
import sys

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from ssp_jax.errors import UserError
from ssp_jax.prompts import tokeniser as module
from ssp_jax.prompts.tokeniser import Tokeniser, check_vocabulary, train_tokeniser

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "A", "b", "##b", "dog", "Dog", "##s"]
TOKENS += ["cat", "é", "e", ".", ",", "-", "left", "the", "左", "右", "un", "##able"]
PAIRS = (
    ("A dog, the Dogs - left.", "dog"),
    ("", ""),
    ("", "cat"),
    ("abb unable \x00 zzz É \U0001f415", "左右"),
    ("[SEP] the [MASK]", "[CLS]cat\n\tdog"),
    ("the " * 30, "cat " * 3),
    ("the " * 3, "cat " * 30),
    ("the " * 31, "cat " * 30),
    ("the " * 7, "cat " * 6),
)
WORDS = [
    "".join(random.Random(i).choices("abcdefgh", k=random.Random(-i).randint(2, 7)))
    for i in range(400)
]
OWN = [(" ".join(random.Random(i).choices(WORDS, k=12)), WORDS[i]) for i in range(200)]


def write_vocabulary(folder, **options):
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(TOKENS) + "\n", encoding="utf-8")
    if options:
        options["tokenizer_class"] = "BertTokenizer"
        (folder / "tokenizer_config.json").write_text(json.dumps(options))
    return folder


def write_json(folder, lowercase=True):
    folder.mkdir(exist_ok=True)
    backend = Tokenizer(models.WordPiece({t: i for i, t in enumerate(TOKENS)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    backend.add_special_tokens(TOKENS[:5])
    backend.enable_padding(length=50)  # left by whoever saved it
    backend.enable_truncation(6)
    backend.save(str(folder / "tokenizer.json"))
    return folder


def tokens_of(tokeniser, text):
    coded = tokeniser.encode_pairs([(text, "")], 32)
    return [TOKENS[i] for i in coded["ids"][0][coded["mask"][0]]][1:-2]


def test_a_pair_by_hand(tmp_path):
    tokeniser = Tokeniser(write_vocabulary(tmp_path / "v"))
    coded = tokeniser.encode_pairs([("The dogs!", "Cat"), ("", "")], 9)
    pair = ["[CLS]", "the", "dog", "##s", "[UNK]", "[SEP]", "cat", "[SEP]", "[PAD]"]
    ids = [[TOKENS.index(token) for token in pair], [2, 3, 3, 0, 0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(coded["ids"], ids)
    types = [[0, 0, 0, 0, 0, 0, 1, 1, 0], [0, 0, 1, 0, 0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(coded["types"], types)
    np.testing.assert_array_equal(coded["mask"], np.arange(9) < np.array([[8], [3]]))
    assert [coded[k].dtype for k in ("ids", "types", "mask")] == [np.int32, np.int32, np.bool_]


@pytest.mark.parametrize(
    "options", [{}, {"do_lower_case": False}, {"do_lower_case": True, "strip_accents": False}]
)
@pytest.mark.parametrize("kind", ["vocab.txt", "tokenizer.json"])
def test_same_ids_as_transformers(tmp_path, kind, options):
    transformers = pytest.importorskip("transformers")
    folder = write_vocabulary(tmp_path / "v", **options)
    if kind == "tokenizer.json":
        (folder / "vocab.txt").unlink()
        write_json(folder)
    reference = transformers.BertTokenizerFast.from_pretrained(folder)
    for length in (4, 12, 13, 128):
        wanted = reference(
            [first for first, _ in PAIRS],
            [second for _, second in PAIRS],
            padding="max_length",
            truncation="longest_first",
            max_length=length,
        )
        coded = Tokeniser(folder).encode_pairs(PAIRS, length)
        np.testing.assert_array_equal(coded["ids"], wanted["input_ids"])
        np.testing.assert_array_equal(coded["types"], wanted["token_type_ids"])
        np.testing.assert_array_equal(coded["mask"], wanted["attention_mask"])


def test_letters_case(tmp_path):
    plain = write_vocabulary(tmp_path / "plain")
    assert tokens_of(Tokeniser(plain), "A Dog É") == ["a", "dog", "e"]
    assert tokens_of(Tokeniser(plain / "vocab.txt"), "A Dog É") == ["a", "dog", "e"]
    cased = write_vocabulary(tmp_path / "cased", do_lower_case=False)
    assert tokens_of(Tokeniser(cased), "A Dog é") == ["A", "Dog", "é"]
    kept = write_json(tmp_path / "kept", lowercase=False)
    assert tokens_of(Tokeniser(kept / "tokenizer.json"), "A Dog é") == ["A", "Dog", "é"]
    (kept / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert tokens_of(Tokeniser(kept), "A Dog é") == ["a", "dog", "e"]


def test_cut_texts_are_counted_once(tmp_path, caplog):
    tokeniser = Tokeniser(write_vocabulary(tmp_path / "v"))
    with caplog.at_level(logging.WARNING):
        coded = tokeniser.encode_pairs(PAIRS, 12)
    assert caplog.messages == ["66.7 % of the texts are cut to 12 tokens, the longest had 64"]
    assert coded["mask"][5].all()
    assert (coded["ids"][5] == TOKENS.index("cat")).sum() == 3  # the longer text is cut first
    with pytest.raises(UserError, match="3 tokens, expected 4 or more"):
        tokeniser.encode_pairs(PAIRS, 3)
    assert tokeniser.encode_pairs([], 5)["ids"].shape == (0, 5)


def test_bad_files(tmp_path):
    def refused(name, content, at=None):
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError) as error:
            Tokeniser(at or tmp_path / name)
        return str(error.value)

    assert "has [PAD], [UNK], [CLS], [SEP]" in refused("vocab.txt", "a\nb\n")
    assert "has 'a' twice" in refused("vocab.txt", "\n".join([*TOKENS, "a"]))
    for content in ("{", "[]", "", '{"model": 3}'):
        assert "cannot be read as a tokeniser" in refused("tokenizer.json", content)
    absurd = Tokenizer(models.WordPiece({t: i for i, t in enumerate(TOKENS)} | {"b": 2**31}))
    absurd.normalizer = normalizers.BertNormalizer()
    assert "numbers a token 2147483648" in refused("tokenizer.json", absurd.to_str())
    byte_pairs = Tokenizer(models.BPE()).to_str()
    assert "found BPE and NoneType" in refused("tokenizer.json", byte_pairs)
    assert "expected tokenizer.json, vocab.txt" in refused("model.bin", "x")
    write_vocabulary(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    assert "JSON" in refused("tokenizer_config.json", "{", tmp_path)
    assert "found list" in refused("tokenizer_config.json", "[]", tmp_path)
    wrong = refused("tokenizer_config.json", '{"do_lower_case": 1}', tmp_path)
    assert "do_lower_case is 1, expected true or false" in wrong
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"neither tokenizer.json nor vocab.txt"):
        Tokeniser(tmp_path / "empty")


def test_a_name_that_is_no_file(tmp_path, monkeypatch):
    def offline(name, **options):
        raise OSError("Name or service not known\nand more")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(UserError, match=r"'bert-base-uncased'.*not known\).*Without network"):
        Tokeniser("bert-base-uncased")
    folder = write_vocabulary(tmp_path / "v")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **options: str(folder))
    assert tokens_of(Tokeniser("bert-base-uncased"), "A dog") == ["a", "dog"]


@pytest.mark.parametrize("size", [300, 5000])
def test_training_is_the_same_in_every_process(tmp_path, size):
    train_tokeniser(OWN, tmp_path / "here", size)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_tokeniser as t;"
        f"t.train_tokeniser(t.OWN, sys.argv[2], {size})"
    )
    here = module.__file__.rsplit("/", 3)[0]
    subprocess.run(
        [sys.executable, "-c", code, f"{here}/tests/prompts", str(tmp_path / "there")], check=True
    )
    files = [(tmp_path / place / "tokenizer.json").read_bytes() for place in ("here", "there")]
    assert files[0] == files[1]
    assert len(list((tmp_path / "here").iterdir())) == 1


def test_a_trained_vocabulary(tmp_path):
    texts = [("On the left a Red dog stands still; a cat moves.", "dog"), ("", "")] * 5
    tokeniser = train_tokeniser(texts, tmp_path / "t")
    assert tokeniser.vocabulary_size < 200
    coded = tokeniser.encode_pairs([("a red CAT stands", "dog"), ("xyz", "")], 12)
    assert coded["mask"].sum(1).tolist() == [8, 4]  # whole words, and one unknown
    assert coded["ids"][1, 1] == 1
    assert coded["ids"].max() < tokeniser.vocabulary_size
    small = train_tokeniser(OWN, tmp_path / "s", 60)
    assert small.vocabulary_size == 60


def test_a_stored_vocabulary_is_kept(tmp_path):
    first = train_tokeniser(OWN, tmp_path / "t", 300)
    time = (tmp_path / "t" / "tokenizer.json").stat().st_mtime_ns
    first.encode_pairs(OWN, 5)  # which cuts
    again = train_tokeniser(OWN, tmp_path / "t", 300)
    assert again.vocabulary_size == first.vocabulary_size == 300
    assert (tmp_path / "t" / "tokenizer.json").stat().st_mtime_ns == time
    for texts, size in ((OWN[:50], 300), (OWN, 400)):
        with pytest.raises(UserError, match="a tokeniser of other texts"):
            train_tokeniser(texts, tmp_path / "t", size)
    with pytest.raises(UserError, match="no text to train it on"):
        train_tokeniser([("", " ")], tmp_path / "u")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        train_tokeniser(OWN, tmp_path / "file")


def test_a_vocabulary_fits_its_embeddings(tmp_path, caplog):
    tokeniser = Tokeniser(write_vocabulary(tmp_path / "v"))
    size = len(TOKENS)
    assert tokeniser.vocabulary_size == size
    with pytest.raises(UserError, match=rf"{size} tokens, but weights/bert has embeddings of 20"):
        check_vocabulary(tokeniser, 20, "weights/bert")
    with caplog.at_level(logging.WARNING):
        check_vocabulary(tokeniser, size, "weights/bert")
        assert not caplog.messages
        check_vocabulary(tokeniser, 30522, "weights/bert")
    assert "30522" in caplog.messages[0]
