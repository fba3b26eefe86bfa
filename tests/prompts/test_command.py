"""python -m ssp_jax.prompts: what it refuses before it reads data, and real (tiny) models."""

import json
import sys

import pytest

from ssp_jax.errors import UserError
from ssp_jax.prompts import __main__ as prompts_command
from ssp_jax.prompts.multimodal import load_answer
from ssp_jax.prompts.texts import read_text_file

_CHAT = (
    "{% for m in messages %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)
# What a stranger's model looks like; it tells when it is run.
_OWN_CODE = """
import pathlib
import torch
from transformers import PretrainedConfig, PreTrainedModel

pathlib.Path({marker!r}).touch()

class StrangeConfig(PretrainedConfig):
    model_type = "strange"

class StrangeModel(PreTrainedModel):
    config_class = StrangeConfig

    def __init__(self, config):
        super().__init__(config)
        self.layer = torch.nn.Linear(2, 2)
        self.post_init()

    def forward(self, x):
        return self.layer(x)

    def chat(self, msgs, tokenizer, sampling, max_new_tokens, use_image_id, max_slice_nums):
        *frames, question = msgs[0]["content"]
        assert not sampling and msgs[0]["role"] == "user"
        return f"{{len(frames)}} frames, {{question}}"
"""


@pytest.fixture
def faked(monkeypatch):
    """Any machine and any model, answering with what it is asked."""
    monkeypatch.setattr(prompts_command, "check_machine", lambda device: None)

    def load(name, **options):
        def answer(frames, question):
            if name == "broken" and frames[0].getpixel((0, 0))[0] == 3:
                raise RuntimeError("out of memory")
            return f"{len(frames)} {question}"

        return answer

    monkeypatch.setattr(prompts_command, "load_answer", load)


@pytest.fixture
def refused(command, tmp_path):
    """Runs the command, expects one message, status 1 and no file written; the message."""

    def run(*arguments):
        out = tmp_path / "out.json"
        status, printed, err = command(f"--out={out}", *arguments)
        assert (status, printed) == (1, "")
        assert err.splitlines()[-1].startswith("error: ")
        assert err.count("error: ") == 1
        assert not out.exists()
        return err

    return run


def small_tokeniser():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<unk>", "<image>", "<s>", "</s>", *(f"w{i}" for i in range(59))]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
    )


def write_strange_model(folder, marker):
    """A model that brings its own code."""
    from safetensors.numpy import save_file

    small_tokeniser().save_pretrained(folder)
    names = {"AutoConfig": "code.StrangeConfig", "AutoModel": "code.StrangeModel"}
    (folder / "config.json").write_text(json.dumps({"model_type": "strange", "auto_map": names}))
    (folder / "code.py").write_text(_OWN_CODE.format(marker=str(marker)))
    import numpy as np

    arrays = {"layer.weight": np.zeros((2, 2), "f4"), "layer.bias": np.zeros(2, "f4")}
    save_file(arrays, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_the_command_and_its_file(command, faked, textless, tmp_path):
    out = tmp_path / "texts.json"
    arguments = (f"--prepared={textless}", f"--out={out}", "--model=m", "--revision=abc")
    status, printed, err = command(
        *arguments, "--split=train", "--config.texts.wordings.scene=what?"
    )
    assert (status, printed) == (0, f"{out}: texts of 12 clips\n")
    assert "frames of 96 pixels" in err
    texts, facts = read_text_file(out)
    assert texts["-clip5"][0] == "5 what?"
    assert texts["-clip5"][1].startswith("5 These are frames of one video")
    assert "Its objects: 5 what?" in texts["-clip5"][1]
    assert (facts["model"], facts["frames"]) == ("m@abc", 5)
    # All splits that have clips.
    status, printed, err = command(*arguments, "--config.texts.wordings.scene=what?", "--frames=5")
    assert (status, printed) == (0, f"{out}: texts of 14 clips\n")
    status, _, err = command(*arguments)
    assert status == 1
    assert "made otherwise" in err


def test_failed_clips_are_listed_last(command, faked, textless, tmp_path):
    out = tmp_path / "texts.json"
    arguments = (f"--prepared={textless}", f"--out={out}", "--split=train", "--model=broken")
    status, printed, err = command(*arguments)
    assert (status, printed) == (1, f"{out}: texts of 11 clips\n")
    assert err.splitlines()[-1] == "left without texts: -clip3: RuntimeError: out of memory"


def test_bad_arguments(command, refused, faked, textless, tmp_path):
    data = f"--prepared={textless}"
    assert "no prepared data set" in refused(f"--prepared={tmp_path / 'none'}")
    assert "no split 'tset'" in refused(data, "--split=train,tset")
    assert "has no '{scene}'" in refused(data, "--config.texts.wordings.sounding=what sounds?")
    assert "frames: 0" in refused(data, "--frames=0")
    assert "'scene_wording'" in refused(data, "--config.texts.scene_wording=what?")
    assert "none.py" in refused(data, f"--config={tmp_path / 'none.py'}")
    for arguments in ((), (data, "--scene_wording=what?")):
        assert command("--out=x.json", *arguments)[0] == 2


def test_without_pytorch(refused, textless, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    message = refused(f"--prepared={textless}")
    assert "needs PyTorch: pip install torch" in message


def test_without_gpu(refused, textless):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("has a GPU")
    assert "finds no GPU" in refused(f"--prepared={textless}")
    assert "--device=gpu" in refused(f"--prepared={textless}", "--device=gpu")


def test_models_that_are_not_there(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(UserError, match=r"names a model_type|cannot be had"):
        load_answer(str(tmp_path), device="cpu")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot be had"):
        load_answer(str(tmp_path), device="cpu")


def test_code_of_strangers_only_if_allowed(command, refused, textless, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    modules = tmp_path / "modules"
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(modules))
    monkeypatch.setattr(sys, "path", list(sys.path))
    marker = tmp_path / "ran"
    model = write_strange_model(tmp_path / "strange", marker)
    arguments = (f"--prepared={textless}", "--device=cpu", f"--model={model}", "--split=train")
    message = refused(*arguments)
    assert "its own Python code" in message
    assert "--trust_remote_code" in message
    assert not marker.exists()
    assert not modules.exists()
    out = tmp_path / "out.json"
    status, _, err = command(*arguments, f"--out={out}", "--trust_remote_code", "--frames=2")
    assert status == 0, err
    assert marker.exists()
    assert read_text_file(out)[0]["-clip4"][0].startswith("2 frames, These are frames")


def test_a_real_model_of_transformers(command, refused, textless, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = tmp_path / "llava"
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    vision = transformers.CLIPVisionConfig(
        **sizes, num_hidden_layers=2, image_size=32, patch_size=16, projection_dim=16
    )
    text = transformers.LlamaConfig(
        **sizes, num_hidden_layers=1, vocab_size=64, pad_token_id=0, bos_token_id=3, eos_token_id=4
    )
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=2)
    network = transformers.LlavaForConditionalGeneration(config)
    network.save_pretrained(model)
    images = transformers.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    processor = transformers.LlavaProcessor(
        images, small_tokeniser(), 16, "default", num_additional_image_tokens=1
    )
    processor.save_pretrained(model)
    arguments = (f"--prepared={textless}", "--device=cpu", f"--model={model}", "--split=train")
    assert "has no chat template" in refused(*arguments)
    processor.chat_template = _CHAT
    processor.save_pretrained(model)
    wordings = (
        "--config.texts.wordings.scene=w1 w2",
        "--config.texts.wordings.sounding=w3 {scene} w4",
        "--max_new_tokens=6",
    )
    out = tmp_path / "texts.json"
    status, _, err = command(*arguments, *wordings, f"--out={out}", "--frames=2")
    assert status == 0, err
    texts, _ = read_text_file(out)
    assert len(texts) == 12
    for scene, sounding in texts.values():
        assert 0 < len(scene.split()) <= 6  # no word of the question, which is cut off
        assert set((scene + " " + sounding).split()) <= {f"w{i}" for i in range(59)}
    (model / "config.json").write_text('{"model_type": "bert"}')
    assert "cannot be loaded onto cpu" in refused(*arguments)
