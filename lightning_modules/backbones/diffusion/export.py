"""Export a fine-tuned diffusion model to a folder that diffusers or peft loads without this project."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from lightning_modules.backbones.adapters import adapter_names, lora_metadata, weights_are_insufficient
from lightning_modules.backbones.diffusion.pixel_space import PixelSpace
from lightning_modules.backbones.diffusion.text_to_image import TextToImage, adapted_parts
from lightning_modules.backbones.quantization import dequantized_state, is_quantized


def save_model(model: TextToImage | PixelSpace, folder: Path, writes: bool, merge: bool = False) -> None:
    """Save the trained model. This function must be called on every rank, but only one rank writes files.

    A fully trained text-to-image model is saved as a pipeline, for `DiffusionPipeline.from_pretrained(folder)`. Trained
    adapters are saved separately, for `pipeline.load_lora_weights(folder)`. Some pipelines, such as that of
    PixArt-Sigma, do not have `load_lora_weights`. The network is then saved to `folder/transformer` after its adapters
    are merged, and can be loaded by `from_pretrained(base, transformer=...)`. A pixel-space U-Net is saved as a whole
    pipeline, with merged adapters. Adapters of a text-to-image model other than LoRA are saved to `folder/unet` or
    `folder/transformer` for `PeftModel.from_pretrained`. If the network is not a diffusers class, only its weights are
    saved, and can be loaded by `lightning_modules.backbones.with_weights`.

    Args:
        model: model to save.
        folder: output folder.
        writes: whether this rank writes the files.
        merge: merge the adapters of a text-to-image model into its weights, and save the whole pipeline.
    """
    network: Any = model.network
    adapters, loaded = bool(adapter_names(network)), getattr(model, "pipeline", None)
    by_peft = adapters and network.peft_config["default"].peft_type != "LORA" and loaded is not None
    separate = adapters and not merge and (by_peft or hasattr(loaded, "save_lora_weights"))
    state = _state(network, separate)
    if not writes:
        return
    if separate and not isinstance(model, PixelSpace):
        from diffusers.utils import convert_state_dict_to_diffusers
        from peft import get_peft_model_state_dict

        layers = get_peft_model_state_dict(network, state_dict=state)
        if by_peft:
            _save_for_peft(network, layers, folder / model.parts[0])
            return
        if model.parts[0] == "unet":  # diffusers uses peft's names for the layers of transformers
            layers = convert_state_dict_to_diffusers(layers)
        given: dict[str, Any] = {f"{model.parts[0]}_lora_layers": layers}
        parts = {model.parts[0]: network}
        for name, encoder in list(adapted_parts(model).items())[1:]:
            parts[name] = encoder
            layers = get_peft_model_state_dict(encoder)
            # Older versions of transformers have this prefix, and newer ones remove it.
            named = {f"text_model.{key.removeprefix('text_model.')}": value.cpu() for key, value in layers.items()}
            given[f"{name}_lora_layers"] = convert_state_dict_to_diffusers(named)
        if any(map(weights_are_insufficient, parts.values())):  # diffusers reads the settings of all or none
            given |= {f"{name}_lora_adapter_metadata": lora_metadata(part) for name, part in parts.items()}
        model.pipeline.save_lora_weights(str(folder), **given)
        return
    if not hasattr(network, "save_pretrained"):
        folder.mkdir(parents=True, exist_ok=True)
        save_file(merge_adapters(network, state), folder / "network.safetensors")
        return
    plain = type_of(network).from_config(
        {key: value for key, value in network.config.items() if key != "quantization_config"}
    )
    plain.load_state_dict(merge_adapters(network, state))
    if not isinstance(model, PixelSpace):
        plain.to(network.dtype)
        if adapters and not merge:
            plain.save_pretrained(folder / model.parts[0])
            return
        adapted, merged = {model.parts[0]: network}, {model.parts[0]: plain}
        for name, encoder in list(adapted_parts(model).items())[1:]:
            adapted[name], merged[name] = encoder, type(encoder)(encoder.config).to(encoder.dtype)
            merged[name].load_state_dict(merge_adapters(encoder, encoder.state_dict()))
        model.pipeline.register_modules(**merged)
        model.pipeline.save_pretrained(folder)
        model.pipeline.register_modules(**adapted)
        return
    from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline

    pipeline: Any = DDIMPipeline if isinstance(model.scheduler, DDIMScheduler) else DDPMPipeline
    pipeline(unet=plain, scheduler=model.scheduler).save_pretrained(folder)


def _state(network: nn.Module, only_adapters: bool) -> dict[str, Any]:
    """Return all weights of a network on the CPU; gather sharded weights, and dequantise quantised weights.

    Args:
        network: the network.
        only_adapters: return only the adapters if the network is quantised, so that the other weights need not be
            dequantised.
    """
    if is_quantized(network):
        if only_adapters:
            state, added = network.state_dict(), adapter_names(network)
            return {name: state[name].cpu() for name in added}
        return dequantized_state(network)
    return get_model_state_dict(network, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def type_of(network: nn.Module) -> Any:
    """Return the diffusers class of a network, even if sharding has replaced this class with a subclass."""
    return next(kind for kind in type(network).__mro__ if kind.__module__.startswith("diffusers"))


def merge_adapters(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Merge a network's adapters into its weights: the weight W + s B A replaces W, under the same name.

    With DoRA, the rows of W + s B A are rescaled to their trained norms. Adapters of other kinds are merged by peft.
    """
    added = adapter_names(network)
    plain = {name.replace(".base_layer", ""): value for name, value in state.items() if name not in added}
    for name, layer in network.named_modules():
        if not hasattr(layer, "base_layer"):
            continue
        if not hasattr(layer, "lora_A"):
            plain[f"{name}.weight"] = _merged_by_peft(layer, f"{name}.", state)
            continue
        for adapter, scaling in layer.scaling.items():
            down, up = (state[f"{name}.lora_{side}.{adapter}.weight"] for side in "AB")
            weight = plain[f"{name}.weight"]
            weight = weight + scaling * torch.mm(up.flatten(1), down.flatten(1)).view_as(weight)
            magnitude = state.get(f"{name}.lora_magnitude_vector.{adapter}.weight")
            if magnitude is not None:
                rows = weight.flatten(1)
                weight = (rows * (magnitude.flatten() / rows.norm(dim=1)).unsqueeze(1)).view_as(weight)
            plain[f"{name}.weight"] = weight
    return plain


def _merged_by_peft(layer: Any, prefix: str, state: dict[str, Tensor]) -> Tensor:
    """Return a layer's weight with its adapters, both from a state dict; the layer's own parameters are not read."""
    replaced = {}
    for name, parameter in layer.named_parameters():
        value = state[f"{prefix}{name}"]
        value = value.to(torch.promote_types(value.dtype, torch.float32), copy=True)
        replaced[id(parameter)] = nn.Parameter(value, requires_grad=False)
    merged = deepcopy(layer, replaced)
    merged.merge()
    return merged.get_base_layer().weight.data


def _save_for_peft(network: Any, layers: dict[str, Tensor], folder: Path) -> None:
    """Save adapters for `PeftModel.from_pretrained(network, folder)`."""
    from peft.utils import SAFETENSORS_WEIGHTS_NAME

    network.peft_config["default"].save_pretrained(folder)
    named = {f"base_model.model.{name}": value.contiguous() for name, value in layers.items()}
    save_file(named, folder / SAFETENSORS_WEIGHTS_NAME, {"format": "pt"})
