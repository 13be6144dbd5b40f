"""Start training from the LoRA in a file, with the names of diffusers or of kohya."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from lightning_modules.backbones.adapters import adapter_names
from lightning_modules.backbones.weights import check_safetensors, join_names, loaded_from, on_meta


def load_lora(network: Any, pipeline: Any, part: str, path: str) -> None:
    """Copy a LoRA into the adapters of a network, so that the network computes the same as with the file's LoRA.

    The scale of the file's adapters is moved into their matrices B, so `adapters.alpha` may differ from the file's
    alpha.

    Args:
        network: the pipeline's denoising network, with adapters.
        pipeline: diffusers pipeline, whose class knows the names.
        part: name of the network in the pipeline, `unet` or `transformer`.
        path: `.safetensors` file of diffusers, peft or kohya.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is damaged, or if its layers, rank or kind are not those of the network's adapters.
    """
    from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft

    file = Path(path).expanduser()
    if file.suffix != ".safetensors" or not file.is_file():
        raise FileNotFoundError(f"weights.lora must be a .safetensors file, and there is none at {file}")
    check_safetensors(file)
    if on_meta(network):
        return
    with safe_open(file, "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is not a mapping
        settings = _settings((opened.metadata() or {}).get("lora_adapter_metadata", "{}"), f"{part}.", file)
    others: dict[str, Any] = {"unet_config": network.config} if part == "unet" else {}
    try:
        found: Any = type(pipeline).lora_state_dict(tensors, **others)
    except (AttributeError, KeyError, ValueError) as error:
        raise ValueError(f"{file} is not a LoRA that diffusers can read for {type(pipeline).__name__}") from error
    state, scales = found if isinstance(found, tuple) else (found, None)
    prefix = f"{part}."
    if foreign := [name for name in state if not name.startswith(prefix)]:
        raise ValueError(
            f"{file} also adapts other parts than the {part}, which are not trained: {join_names(foreign)}"
        )
    state = {name.removeprefix(prefix): value for name, value in state.items()}
    alphas = {name.removeprefix(prefix).removesuffix(".alpha"): value for name, value in (scales or {}).items()}
    if not any("lora_A" in name for name in state):
        state, alphas = convert_unet_state_dict_to_peft(state), convert_unet_state_dict_to_peft(alphas)
    alphas = {name.partition(".lora_")[0]: value for name, value in alphas.items()}
    added = adapter_names(network)
    own = {name.replace(".default", ""): each for name, each in network.named_parameters() if name in added}
    for key, names in (("has no", own.keys() - state.keys()), ("has further", state.keys() - own.keys())):
        if names:
            raise ValueError(
                f"{file} {key} adapters {join_names(sorted(names))}: adapters.targets and adapters.dora must describe "
                "the file's LoRA"
            )
    ranks = {len(value) for name, value in state.items() if ".lora_A." in name}
    if ranks != {len(value) for name, value in own.items() if ".lora_A." in name}:
        raise ValueError(f"adapters.rank must be that of {file}, {' and '.join(map(str, sorted(ranks)))}")
    for name, value in state.items():
        layer, _, kind = name.partition(".lora_")
        if kind == "B.weight":
            rank = value.shape[1]
            alpha = alphas.get(layer, settings.get("lora_alpha", rank))
            scale = float(alpha) / (rank**0.5 if settings.get("use_rslora") else rank)
            value = value * (scale / network.get_submodule(layer).scaling["default"])
        _copy(own[name], value)
    loaded_from(path, network)


def _settings(text: str, prefix: str, file: Path) -> dict[str, Any]:
    """Read the alpha and the kind of a LoRA from the metadata of diffusers."""
    try:
        settings = {name.removeprefix(prefix): value for name, value in json.loads(text).items()}
        return {"use_rslora": settings.get("use_rslora") is True} | (
            {"lora_alpha": float(settings["lora_alpha"])} if "lora_alpha" in settings else {}
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{file} has damaged metadata: lora_adapter_metadata must be a table with numbers") from error


@torch.no_grad()
def _copy(parameter: Tensor, value: Tensor) -> None:
    parameter.copy_(value.view_as(parameter))
