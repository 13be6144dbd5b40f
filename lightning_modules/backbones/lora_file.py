"""Start training from the adapters in a file, with the names of diffusers, kohya, LyCORIS or ComfyUI."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from lightning_modules.backbones.adapters import adapter_names
from lightning_modules.backbones.lora_names import SCALED, read_adapters
from lightning_modules.backbones.weights import check_safetensors, join_names, loaded_from, on_meta


def load_lora(networks: Mapping[str, Any], pipeline: Any, path: str) -> None:
    """Copy the adapters in a file into those of networks, so that the networks compute the same as with the file's.

    The scale of the file's adapters is moved into one of their matrices, so `adapters.alpha` may differ from the file's
    alpha.

    Args:
        networks: the pipeline's networks with adapters by their names, the denoising network first.
        pipeline: diffusers pipeline, whose class knows the names.
        path: `.safetensors` file of diffusers, peft, kohya, LyCORIS or ComfyUI.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is damaged, or if its layers, rank or kind are not those of the networks' adapters.
    """
    file = Path(path).expanduser()
    if file.suffix != ".safetensors" or not file.is_file():
        raise FileNotFoundError(f"weights.lora must be a .safetensors file, and there is none at {file}")
    check_safetensors(file)
    part, network = next(iter(networks.items()))
    if on_meta(network):
        return
    with safe_open(file, "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is not a mapping
        metadata = (opened.metadata() or {}).get("lora_adapter_metadata", "{}")
    settings = {name: _settings(metadata, f"{name}.", file) for name in networks}
    state, scales = _read_alphas(tensors, networks) or _read_diffusers(tensors, networks, pipeline, settings, file)
    if foreign := [name for name in state if not name.startswith(tuple(f"{name}." for name in networks))]:
        raise ValueError(
            f"{file} also adapts other parts than the {part}, which are not trained: {join_names(foreign)}"
        )
    own = {
        f"{name}.{key.replace('.default', '')}": value
        for name, each in networks.items()
        for key, value in each.named_parameters()
        if key in adapter_names(each)
    }
    for key, names in (("has no", own.keys() - state.keys()), ("has further", state.keys() - own.keys())):
        if names:
            raise ValueError(
                f"{file} {key} adapters {join_names(name.removeprefix(f'{part}.') for name in sorted(names))}: "
                "adapters.targets, adapters.dora and text_adapters must describe the file's LoRA"
            )
    ranks = {len(value) for name, value in state.items() if ".lora_A." in name}
    if any(value.numel() != own[name].numel() for name, value in state.items()):
        raise ValueError(f"adapters.rank must be that of {file}, {' and '.join(map(str, sorted(ranks)))}")
    for name, value in state.items():
        if name.endswith(SCALED):
            place, _, inner = re.split(r"\.(?=lora_|hada_|lokr_)", name)[0].partition(".")
            value = value * (scales[f"{place}.{inner}"] / networks[place].get_submodule(inner).scaling["default"])
        _copy(own[name], value)
    loaded_from(path, network)


State = tuple[dict[str, Tensor], dict[str, float]]
"""Tensors by the name of the network and their own, such as `unet.to_q.lora_A.weight`, and scales of layers."""


def _read_alphas(tensors: dict[str, Tensor], networks: Mapping[str, Any]) -> State | None:
    """Read a file in which layers have an alpha; None if the names are not known here, or only those of a U-Net."""
    left = dict(tensors)
    state: dict[str, Tensor] = {}
    scales: dict[str, float] = {}
    if not any(name.endswith(".alpha") for name in tensors):
        return None
    for part, network in networks.items():
        read, found = read_adapters(left, network, part, len(networks) - 1)
        state |= {f"{part}.{name}": value for name, value in read.items()}
        scales |= {f"{part}.{name}": value for name, value in found.items()}
    left = {name: value for name, value in left.items() if not name.endswith(".alpha")}
    if not state or (left and "unet" in networks):
        return None
    return state | {f"{next(iter(networks))}.{name}": value for name, value in left.items()}, scales


def _read_diffusers(
    tensors: dict[str, Tensor], networks: Mapping[str, Any], pipeline: Any, settings: Mapping[str, Any], file: Path
) -> State:
    """Read a file with the loader of a diffusers pipeline."""
    from diffusers.utils.state_dict_utils import convert_state_dict_to_peft, convert_unet_state_dict_to_peft

    others: dict[str, Any] = {"unet_config": networks["unet"].config} if "unet" in networks else {}
    try:
        read: Any = type(pipeline).lora_state_dict(dict(tensors), **others)
    except (AssertionError, AttributeError, KeyError, ValueError) as error:
        raise ValueError(f"{file} is not a LoRA that diffusers can read for {type(pipeline).__name__}") from error
    read, alphas = read if isinstance(read, tuple) else (read, None)
    state, scales = {name: value for name, value in read.items() if name.partition(".")[0] not in networks}, {}
    for part, network in networks.items():
        prefix = f"{part}."
        found, given = (
            {name.removeprefix(prefix): value for name, value in each.items() if name.startswith(prefix)}
            for each in (read, alphas or {})
        )
        given = {name.removesuffix(".alpha"): value for name, value in given.items()}
        if found and not any("lora_A" in name for name in found):
            convert = convert_unet_state_dict_to_peft if part == "unet" else convert_state_dict_to_peft
            found, given = convert(found), convert(given) if given else given
        if not any(name.startswith("text_model.") for name in adapter_names(network)):  # as in transformers 5
            found = {name.removeprefix("text_model."): value for name, value in found.items()}
        given = {name.partition(".lora_")[0]: value for name, value in given.items()}
        for name, value in found.items():
            layer, _, kind = name.partition(".lora_")
            state[f"{prefix}{name}"] = value
            if kind == "B.weight":
                rank, chosen = value.shape[1], settings[part]
                alpha = given.get(layer, chosen.get("lora_alpha", rank))
                scales[f"{prefix}{layer}"] = float(alpha) / (rank**0.5 if chosen.get("use_rslora") else rank)
    return state, scales


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
