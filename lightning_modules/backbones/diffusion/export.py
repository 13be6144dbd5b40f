"""Export a fine-tuned diffusion model to a folder that diffusers or peft loads without this project."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from lightning_modules.backbones.adapters import lora_metadata
from lightning_modules.backbones.diffusion.latent_diffusion import LatentDiffusion
from lightning_modules.backbones.diffusion.pixel_space import PixelSpace
from lightning_modules.backbones.quantization import dequantized_state, is_quantized


def save_model(model: LatentDiffusion | PixelSpace, folder: Path, writes: bool, merge: bool = False) -> None:
    """Save the trained model. This function must be called on every rank, but only one rank writes files.

    A fully trained text-to-image model is saved as a pipeline, for `DiffusionPipeline.from_pretrained(folder)`. Trained
    adapters are saved separately, for `pipeline.load_lora_weights(folder)`. Some pipelines, such as that of
    PixArt-Sigma, do not have `load_lora_weights`. The network is then saved to `folder/transformer` after its adapters
    are merged, and can be loaded by `from_pretrained(base, transformer=...)`. A pixel-space U-Net is saved as a whole
    pipeline, with merged adapters. If the network is not a diffusers class, only its weights are saved, and can be
    loaded by `lightning_modules.backbones.with_weights`.

    Args:
        model: model to save.
        folder: output folder.
        writes: whether this rank writes the files.
        merge: merge the adapters of a text-to-image model into its weights, and save the whole pipeline.
    """
    network: Any = model.network
    adapters = any("lora_" in name for name, _ in network.named_parameters())
    separate = adapters and not merge and hasattr(getattr(model, "pipeline", None), "save_lora_weights")
    state = _state(network, separate)
    if not writes:
        return
    if separate and not isinstance(model, PixelSpace):
        from diffusers.utils import convert_state_dict_to_diffusers
        from peft import get_peft_model_state_dict

        layers = get_peft_model_state_dict(network, state_dict=state)
        if model.parts[0] == "unet":  # diffusers uses peft's names for the layers of transformers
            layers = convert_state_dict_to_diffusers(layers)
        part, settings = model.parts[0], lora_metadata(network)
        described = {} if settings is None else {f"{part}_lora_adapter_metadata": settings}
        model.pipeline.save_lora_weights(str(folder), **{f"{part}_lora_layers": layers}, **described)
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
        model.pipeline.register_modules(**{model.parts[0]: plain})
        model.pipeline.save_pretrained(folder)
        model.pipeline.register_modules(**{model.parts[0]: network})
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
            return {name: value.cpu() for name, value in network.state_dict().items() if "lora_" in name}
        return dequantized_state(network)
    return get_model_state_dict(network, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def type_of(network: nn.Module) -> Any:
    """Return the diffusers class of a network, even if sharding has replaced this class with a subclass."""
    return next(kind for kind in type(network).__mro__ if kind.__module__.startswith("diffusers"))


def merge_adapters(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Merge a network's adapters into its weights: the weight W + s B A replaces W, under the same name.

    With DoRA, the rows of W + s B A are rescaled to their trained norms.
    """
    plain = {name.replace(".base_layer", ""): value for name, value in state.items() if "lora_" not in name}
    for name, layer in network.named_modules():
        scalings = getattr(layer, "scaling", None) if hasattr(layer, "base_layer") else None
        for adapter, scaling in (scalings or {}).items():
            down, up = (state[f"{name}.lora_{side}.{adapter}.weight"] for side in "AB")
            weight = plain[f"{name}.weight"]
            weight = weight + scaling * torch.mm(up.flatten(1), down.flatten(1)).view_as(weight)
            magnitude = state.get(f"{name}.lora_magnitude_vector.{adapter}.weight")
            if magnitude is not None:
                rows = weight.flatten(1)
                weight = (rows * (magnitude.flatten() / rows.norm(dim=1)).unsqueeze(1)).view_as(weight)
            plain[f"{name}.weight"] = weight
    return plain
