"""Weights of this project as a state dict that AAVS's code loads."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from ssp_jax.checkpoints import read_best
from ssp_jax.errors import UserError
from ssp_jax.files import set_usual_mode
from ssp_jax.json_files import load_json
from ssp_jax.models.sizes import SIZES
from ssp_jax.places import run_path
from ssp_jax.weights import aavs, infer
from ssp_jax.weights.folder import (
    check_new,
    is_weight_folder,
    load_unused,
    load_weights,
)
from ssp_jax.weights.importing import NETWORK
from ssp_jax.weights.rules import Arrays, to_source
from ssp_jax.weights.sources import import_torch

# Not in AAVS's files: the audio encoder (it reads features), and heads that only training uses.
_LEFT_OUT = (NETWORK + "audio_encoder/", "sound_classifier/", "audio_visual_map/")


def export_aavs(path: str | Path, out: str | Path) -> dict[str, Any]:
    """Write the network of a weight folder or of a run's stage as AAVS's checkpoint.

    Args:
      path: weight folder, or folder of a stage (with checkpoints/best).
      out: new .pth or .safetensors file.

    Returns:
      {'stage': 1 or 2, 'arrays': number, 'left_out': modules that AAVS's files do not hold}.

    Raises:
      UserError: `out` exists or is of another kind, nothing to read at `path`, or a network that
        AAVS's code does not have. Nothing is written then.
    """
    out = check_new(out)
    if out.suffix not in (".pth", ".safetensors"):
        raise UserError(f"{out}: expected a name that ends in .pth or .safetensors")
    if out.suffix == ".pth":
        import_torch()
    params, unused = _read(run_path(path))
    left_out = sorted({p.rpartition("/")[0] for p in _LEFT_OUT for n in params if n.startswith(p)})
    network = {
        name.removeprefix(NETWORK): np.asarray(value, np.float32)
        for name, value in params.items()
        if not name.startswith(_LEFT_OUT)
    }
    try:
        state, stage = aavs_state(network, unused)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    _write({aavs.released_name(name): value for name, value in state.items()}, out)
    return {"stage": stage, "arrays": len(state), "left_out": left_out}


def aavs_state(params: Arrays, unused: Arrays) -> tuple[dict[str, np.ndarray], int]:
    """AAVS's state (names without prefixes, constants included) and its stage.

    Args:
      params: of `SSP`, by path. unused: arrays that replace what would be made up: the projections
        that stage 1's adapters replace (zeros) and constants.

    Raises:
      UserError: AAVS's code has no such network.
    """
    _check_expressible(params)
    state = to_source(params, aavs.RULES, what="AAVS's network")
    arguments = infer.mask2former_arguments(state)
    _check_complete(params, aavs.model_shapes(arguments))
    # Copies: PyTorch saves arrays that share memory as views of one.
    state |= {name: value.copy() for name, value in aavs.constants(arguments).items()}
    if arguments["decoder_adapter"] == "replace":
        state |= _replaced(arguments)
    foreign = [name for name in unused if name not in state or not _same(unused[name], state[name])]
    if foreign:
        raise UserError(
            f"unused.safetensors does not belong to these weights: {', '.join(foreign[:5])}"
        )
    return state | dict(unused), infer.stage_of(arguments)


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype


def _check_expressible(params: Arrays) -> None:
    def has(part):
        return any(part in path for path in params)

    modules = ("encoder", "pixel_decoder", "mask_decoder", "audio_projection")
    missing = [name for name in modules if not any(p.startswith(name + "/") for p in params)]
    if missing:
        raise UserError(f"not a whole network: there is no {', '.join(missing)}")
    reasons = {
        "it has a map of sounding pixels (audio_visual_map)": has("audio_visual_map/"),
        "its encoder has no adapters (adapters)": not has("/attention_adapter/"),
        "its decoders have no adapters (decoder_adapter is 'none')": not has("output/adapter/"),
    }
    prompt, after = has("prompt_embedding"), has("self_attention/output/projection")
    if not any(reasons.values()) and prompt != after:
        reasons["it mixes AAVS's stages: decoder_adapter='after' goes with mask_prompt"] = True
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise UserError("AAVS's code has no such network: " + "; ".join(found))


def _check_complete(params: Arrays, wanted: Mapping[str, tuple[int, ...]]) -> None:
    problems = [f"{path}: missing" for path in wanted if path not in params]
    problems += [f"{path}: not a part of AAVS's network" for path in params if path not in wanted]
    problems += [
        f"{path}: has shape {params[path].shape}, expected {shape}"
        for path, shape in wanted.items()
        if path in params and params[path].shape != shape
    ]
    if problems:
        raise UserError("not one whole network of AAVS:\n  " + "\n  ".join(problems))


def _replaced(arguments: Mapping[str, Any]) -> dict[str, np.ndarray]:
    channels, state = arguments["hidden"], {}
    for name in aavs.REPLACED:
        pixel = name.startswith(aavs.PIXEL_LAYER)
        shape = (channels, channels) if name.endswith(".weight") else (channels,)
        for layer in range(arguments["encoder_layers" if pixel else "decoder_layers"]):
            state[name.format(layer)] = np.zeros(shape, np.float32)
    return state


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    if is_weight_folder(path):
        return load_weights(path), load_unused(path)
    if not (path / "checkpoints" / "best").is_dir():
        raise UserError(
            f"{path}: expected a weight folder, or the folder of a run's stage, for example "
            "runs/s4/avs, with its best parameters in checkpoints/best"
        )
    _check_gelu(path.parent / "config.json")
    return read_best(path / "checkpoints"), {}


def _check_gelu(config: Path) -> None:
    # Weights do not tell it, and AAVS's code would run them with another function.
    if not config.is_file():
        return
    try:
        model = load_json(config)["model"]
        gelu = model.get("gelu") or SIZES[model["size"]]["gelu"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{config}: not the config of a run ({error!r})") from error
    if gelu != "exact":
        raise UserError(f"{config}: the encoder has gelu={gelu!r}, which AAVS's code has not")


def _write(state: Arrays, out: Path) -> None:
    # In a folder of its own, for a whole file or none.
    temporary = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        file = temporary / out.name
        if out.suffix == ".pth":
            torch = import_torch()
            torch.save({name: torch.from_numpy(value) for name, value in state.items()}, file)
        else:
            save_file(dict(state), file)
        set_usual_mode(file)
        file.rename(out)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{out}: cannot be written ({error})") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
