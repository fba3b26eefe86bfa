"""Multimodal models of `transformers` that answer questions about frames. Needs PyTorch."""

from collections.abc import Sequence
from typing import Any

from PIL import Image

from ssp_jax.errors import UserError
from ssp_jax.prompts.generate import Answer


def check_machine(device: str) -> None:
    """Can a model run here at all?

    Raises:
      UserError: no PyTorch, or no such device.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(
            "generating texts needs PyTorch: pip install torch torchvision (or this project's "
            "prompts extra). Texts made elsewhere can be used without"
        ) from error
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise UserError(f"--device={device}: {str(error).splitlines()[0]}") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"--device={device}: PyTorch finds no GPU. Run this on a machine with one, or allow "
            "a far slower processor with --device=cpu"
        )


def load_answer(
    name: str,
    *,
    device: str = "cuda",
    revision: str | None = None,
    trust_remote_code: bool = False,
    max_new_tokens: int = 256,
) -> Answer:
    """A model as a function of frames and question; not sampled, so that it answers alike.

    Models that `transformers` has itself are asked by its chat template. Of models that bring
    their own code the interface is `chat`, as of MiniCPM-o-2.6 (openbmb/MiniCPM-o-2_6, whose code
    is for transformers 4.44.2).

    Args:
      name: on the Hugging Face hub, or a folder.
      device: as PyTorch names it.
      revision: commit or branch of the hub.
      trust_remote_code: run the code that the model brings, if it brings any.
      max_new_tokens: of one answer.

    Raises:
      UserError: not to be had, of another kind, brings code that is not trusted, or does not fit
        the device.
    """
    from transformers import PretrainedConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        config, _ = PretrainedConfig.get_config_dict(name, revision=revision)  # runs no code
    except (OSError, ValueError) as error:
        raise UserError(
            f"model {name}: cannot be had ({_first_line(error)}). Name a folder or a model of the "
            "Hugging Face hub; without network it has to be in the hub's cache"
        ) from error
    if "model_type" not in config:
        raise UserError(f"model {name}: expected a config.json that names a model_type")
    own_code = "auto_map" in config and config["model_type"] not in CONFIG_MAPPING
    if own_code and not trust_remote_code:
        raise UserError(
            f"model {name}: brings its own Python code, which would run on this machine with your "
            "rights. Read it first; --trust_remote_code allows it, --revision=COMMIT keeps it at "
            "what you have read. Or name a model that transformers has itself, as "
            "--model=Qwen/Qwen2.5-VL-7B-Instruct"
        )
    load = _load_with_own_code if own_code else _load_known
    try:
        return load(name, config, revision, device, max_new_tokens)
    except UserError:
        raise
    except Exception as error:  # loading runs foreign code, or reads foreign files
        import transformers

        hint = " (MiniCPM-o-2.6's is for 4.44.2)" if own_code else ""
        raise UserError(
            f"model {name}: cannot be loaded onto {device} ({type(error).__name__}: "
            f"{_first_line(error)}). transformers here is {transformers.__version__}{hint}"
        ) from error


def _load_known(
    name: str, config: dict[str, Any], revision: str | None, device: str, max_new_tokens: int
) -> Answer:
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    # False, for without it transformers asks at the terminal whether to run what it finds.
    options = {"revision": revision, "trust_remote_code": False}
    processor = AutoProcessor.from_pretrained(name, **options)
    if not getattr(processor, "chat_template", None):
        raise UserError(f"model {name}: has no chat template, expected a model that answers")
    model = AutoModelForImageTextToText.from_pretrained(
        name, torch_dtype=_precision(device), **options
    )
    model = model.eval().to(device)

    @torch.inference_mode()
    def answer(frames: Sequence[Image.Image], question: str) -> str:
        content = [{"type": "image", "image": frame} for frame in frames]
        content.append({"type": "text", "text": question})
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(device, dtype=model.dtype)
        tokens = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
        new = tokens[:, inputs["input_ids"].shape[1] :]
        return processor.batch_decode(new, skip_special_tokens=True)[0]

    return answer


def _load_with_own_code(
    name: str, config: dict[str, Any], revision: str | None, device: str, max_new_tokens: int
) -> Answer:
    import torch
    from transformers import AutoModel, AutoTokenizer

    options = {"revision": revision, "trust_remote_code": True}
    tokenizer = AutoTokenizer.from_pretrained(name, **options)
    if config["model_type"] == "minicpmo":
        options |= {"attn_implementation": "sdpa", "init_audio": False, "init_tts": False}
    model = AutoModel.from_pretrained(name, torch_dtype=_precision(device), **options)
    if not hasattr(model, "chat"):
        raise UserError(f"model {name}: its code has no `chat`, expected it as of MiniCPM-o-2.6")
    model = model.eval().to(device)

    @torch.inference_mode()
    def answer(frames: Sequence[Image.Image], question: str) -> str:
        return model.chat(
            msgs=[{"role": "user", "content": [*frames, question]}],
            tokenizer=tokenizer,
            sampling=False,
            max_new_tokens=max_new_tokens,
            use_image_id=False,  # these two as its authors ask about videos
            max_slice_nums=2,
        )

    return answer


def _precision(device: str):
    import torch

    return torch.float32 if device == "cpu" else torch.bfloat16


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
