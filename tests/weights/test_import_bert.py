"""BERT under its three families of names and BLIP-2's Q-Former into weight folders."""

import json

import numpy as np
import pytest
from flax import serialization, traverse_util
from weight_files import assert_same_arrays, write, write_hub_folder

from ssp_jax.weights import bert
from ssp_jax.weights.folder import load_facts, load_weights
from ssp_jax.weights.rules import to_source

BERT = {"vocabulary": 30, "max_length": 9, "token_types": 2, "width": 8, "layers": 2, "ffn": 12}
QFORMER = BERT | {"token_types": 0, "layers": 4, "num_queries": 3, "cross_width": 6}
WORDLESS = {k: v for k, v in QFORMER.items() if k not in ("vocabulary", "max_length")}
CONFIG = {
    "model_type": "bert",
    "vocab_size": 30,
    "max_position_embeddings": 9,
    "type_vocab_size": 2,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 12,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}


def params(arguments):
    random = np.random.default_rng(0)
    shapes = bert.shapes(arguments)
    return {name: random.normal(size=s).astype(np.float32) for name, s in shapes.items()}


def expected(arguments):
    return {f"network/{name}": value for name, value in params(arguments).items()}


def zeros(*names):
    return dict.fromkeys(names, np.zeros(3, np.float32))


def bert_state(rules=bert.RULES):
    state = to_source(params(BERT), rules, what="BERT")
    state = {f"bert.{name}": value for name, value in state.items()}
    heads = ("cls.predictions.bias", "cls.seq_relationship.weight", "bert.pooler.dense.weight")
    positions = {"bert.embeddings.position_ids": np.arange(9)[None]}
    return state | zeros("cls.predictions.transform.LayerNorm.gamma", *heads) | positions


def qformer_state(arguments):
    """With a little of all that a file of BLIP-2 has besides."""
    state = to_source(params(arguments), bert.QFORMER_RULES, what="the Q-Former")
    return state | zeros(
        "vision_model.encoder.layers.0.mlp.fc1.bias",
        "language_model.model.decoder.layers.0.fc1.weight",
        "language_projection.weight",
    )


def write_flax(state, path):
    tree = traverse_util.unflatten_dict(state, sep=".")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(serialization.msgpack_serialize(tree))
    return path


@pytest.fixture
def imported(command, tmp_path):
    def run(kind, path, out="w"):
        out = tmp_path / out
        status, text, error = command(
            "import", f"--source={kind}", f"--path={path}", f"--out={out}"
        )
        assert (status, error) == (0, "")
        return load_weights(out), load_facts(out), text

    return run


@pytest.fixture
def refused_import(refused, tmp_path):
    def run(kind, path):
        return refused("import", f"--source={kind}", f"--path={path}", f"--out={tmp_path / 'w'}")

    return run


def test_bert_under_all_its_names(imported, tmp_path):
    folder = write_hub_folder(tmp_path / "hub", bert_state(), CONFIG)
    weights, facts, text = imported("bert", folder)
    assert_same_arrays(weights, expected(BERT))
    assert facts["model"] == BERT | {"heads": 4}
    assert facts["ignored"].keys() == {"cls.*", "bert.pooler.*", "bert.embeddings.position_ids*"}
    assert "left out: cls.* (heads of its pretraining)" in text
    assert list(facts["parameters"]) == ["network/vta"]

    old = write(bert_state(bert.OLD_RULES), tmp_path / "old.safetensors")
    weights, facts, _ = imported("bert", old, "w2")
    assert_same_arrays(weights, expected(BERT))
    assert facts["model"] == BERT  # without config.json nothing tells the heads

    bare = {k.removeprefix("bert."): v for k, v in bert_state().items()}
    weights, _, _ = imported("bert", write(bare, tmp_path / "bare.safetensors"), "w3")
    assert_same_arrays(weights, expected(BERT))

    write_flax(bert_state(bert.FLAX_RULES), tmp_path / "flax" / "flax_model.msgpack")
    weights, facts, _ = imported("bert", tmp_path / "flax", "w4")
    assert_same_arrays(weights, expected(BERT))
    assert facts["model"] == BERT
    assert facts["files"][0]["name"] == "flax_model.msgpack"


def test_the_three_families_of_names():
    """As Hugging Face's classes have them; in Flax as its version 4.57 saves."""
    for rules, names in (
        (bert.RULES, ("embeddings.LayerNorm.weight", "encoder.layer.0.attention.self.key.bias")),
        (bert.OLD_RULES, ("embeddings.LayerNorm.gamma", "encoder.layer.1.output.LayerNorm.beta")),
        (
            bert.FLAX_RULES,
            (
                "embeddings.LayerNorm.scale",
                "embeddings.token_type_embeddings.embedding",
                "encoder.layer.1.intermediate.dense.kernel",
            ),
        ),
    ):
        state = to_source(params(BERT), rules, what="BERT")
        assert state.keys() >= set(names)
        assert len(state) == 5 + 16 * 2
    assert state["encoder.layer.1.intermediate.dense.kernel"].shape == (8, 12)


@pytest.mark.parametrize("arguments", [QFORMER, WORDLESS], ids=["with text", "without"])
def test_qformer(imported, tmp_path, arguments):
    folder = write_hub_folder(
        tmp_path / "hub",
        qformer_state(arguments),
        {"qformer_config": {"encoder_hidden_size": 6, "num_attention_heads": 2}},
    )
    weights, facts, _ = imported("qformer", folder)
    assert_same_arrays(weights, expected(arguments))
    assert facts["model"] == arguments | {"cross_every": 2, "heads": 2}
    assert facts["ignored"].keys() == {
        "vision_model.*",
        "language_model.*",
        "language_projection.*",
    }
    assert any("only text uses" in part for part in facts["missing"]) == (arguments is WORDLESS)
    assert any("/ffn/" in name for name in weights) == (arguments is QFORMER)


def test_shards_of_a_language_model_need_not_be_there(imported, refused_import, tmp_path):
    state = qformer_state(WORDLESS)
    unwanted = [name for name in state if name.startswith("language_model.")]
    shards = {name: "2.safetensors" if name in unwanted else "1.safetensors" for name in state}
    write({k: v for k, v in state.items() if k not in unwanted}, tmp_path / "hub/1.safetensors")
    index = tmp_path / "hub" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards}))
    weights, facts, _ = imported("qformer", tmp_path / "hub")
    assert_same_arrays(weights, expected(WORDLESS))
    assert "language_model.*" in facts["ignored"]
    (tmp_path / "hub" / "1.safetensors").unlink()
    index.write_text(json.dumps({"weight_map": shards | {"query_tokens": "2.safetensors"}}))
    (tmp_path / "w").rename(tmp_path / "w2")
    assert "no such file" in refused_import("qformer", tmp_path / "hub")


def test_names_and_shapes_that_do_not_fit(refused_import, tmp_path):
    state = bert_state()
    state["bert.renamed.weight"] = state.pop("bert.encoder.layer.1.output.dense.bias")
    state["bert.encoder.layer.0.intermediate.dense.weight"] = np.zeros((8, 12), np.float32)
    state["bert.embeddings.LayerNorm.bias"] = np.full(8, np.nan, np.float32)
    error = refused_import("bert", write(state, tmp_path / "1.safetensors"))
    for part in (
        "renamed.weight: not a name of BERT",
        "vta/bert/layers/1/ffn/output/bias: no weights for it",
        "vta/bert/layers/0/ffn/input/kernel: has shape (12, 8), the model needs (8, 12)",
        "vta/bert/embedding_norm/bias: has values that are not finite",
    ):
        assert part in error
    state = qformer_state(QFORMER)
    del state["qformer.encoder.layer.2.crossattention.attention.query.bias"]
    error = refused_import("qformer", write(state, tmp_path / "2.safetensors"))
    assert "layers/2/cross_attention/query/bias: no weights for it" in error
    state = qformer_state(QFORMER) | {"query_tokens": np.zeros((3, 8), np.float32)}
    error = refused_import("qformer", write(state, tmp_path / "3.safetensors"))
    assert "query_tokens has shape (3, 8): expected 3 dimensions" in error


def test_weights_of_another_model(refused_import, tmp_path):
    paths = {
        "bert": write(bert_state(), tmp_path / "bert.safetensors"),
        "qformer": write(qformer_state(QFORMER), tmp_path / "qformer.safetensors"),
    }
    assert "those of bert: use --source=bert" in refused_import("qformer", paths["bert"])
    assert "those of qformer: use --source=qformer" in refused_import("bert", paths["qformer"])
    unwanted = {"language_model.weight": np.zeros(2, np.float32)}
    path = write(unwanted, tmp_path / "rest.safetensors")
    assert "there is no query_tokens" in refused_import("qformer", path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act is 'relu', expected 'gelu'"),
        ({"num_hidden_layers": 12}, "num_hidden_layers is 12, expected 2"),
        ({"position_embedding_type": "relative_key"}, "expected 'absolute'"),
        ({"num_attention_heads": "4"}, "num_attention_heads is '4', expected a number"),
        ({"num_attention_heads": 3}, "8 channels do not divide into 3 heads"),
    ],
)
def test_a_config_that_contradicts(refused_import, tmp_path, change, message):
    folder = write_hub_folder(tmp_path / "hub", bert_state(), CONFIG | change)
    assert message in refused_import("bert", folder)


def test_a_config_without_a_qformer(refused_import, tmp_path):
    folder = write_hub_folder(tmp_path / "hub", qformer_state(QFORMER), {"qformer_config": 3})
    assert "qformer_config is no object" in refused_import("qformer", folder)


def test_damaged_flax_files(refused_import, tmp_path):
    path = write_flax(bert_state(bert.FLAX_RULES), tmp_path / "flax_model.msgpack")
    whole = path.read_bytes()
    deep = b"\x81\xa1a" * 2000
    for damaged in (whole[:-100], whole[:50], b"", deep, b"\x93\x01\x02\x03", b"hello"):
        path.write_bytes(damaged)
        assert "cannot be read as Flax's msgpack" in refused_import("bert", path)
    path.write_bytes(serialization.msgpack_serialize({"a": {"b": "text"}}))
    assert "holds more than named arrays, for example a.b" in refused_import("bert", path)
    path.write_bytes(serialization.msgpack_serialize({}))
    assert "holds no arrays" in refused_import("bert", path)
