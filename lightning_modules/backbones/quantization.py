"""Quantise frozen weights of diffusers networks to 8 or 4 bits, with the means of diffusers.

`int8` is the weight-only quantisation of torchao, with 8-bit integers and one scale for each row. `nf4` is the
quantisation of bitsandbytes, with 4-bit codes and one scale for every 64 weights. Both methods quantise linear layers
while the weights are loaded, and dequantise a layer's weight whenever the layer is called. Other layers and adapters
are not quantised. `float8` is the layerwise casting of diffusers: the weights of linear and convolutional layers are
stored as float8 (e4m3) without a scale, and cast to the precision of the computation while their layer is called. With
gradient checkpointing, a block's cast weights are freed after the block.

Source: Dettmers et al., QLoRA: Efficient Finetuning of Quantized LLMs, NeurIPS 2023, arXiv 2305.14314, for nf4.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from datamodules.arguments import one_of
from datamodules.files.text_files import read_json_object
from lightning_modules.backbones.adaptation import Adapters, Precision, Tuning
from lightning_modules.backbones.weight_copies import compute_with_copies, offloaded_names
from lightning_modules.torch_internals import leave_out_of_ddp

Quantization = Literal["float8", "int8", "nf4"]
PACKAGES = {"int8": "torchao", "nf4": "bitsandbytes"}
FLOAT8 = torch.float8_e4m3fn
NETWORKS = ("unet", "transformer")
"""Names of the parts of a pipeline that can be quantised."""


def check_quantization(
    quantization: Quantization | None, tuning: Tuning, network: Path, adapters: Adapters = Adapters()
) -> None:
    """Reject an unsupported quantisation before any weights are loaded.

    Args:
        quantization: quantisation to apply; None applies no quantisation.
        tuning: which parameters are trained; see `adapt`.
        network: folder of the denoising network in a local pipeline; if it does not exist, its config is not checked.
        adapters: settings of the adapters.
    """
    one_of((None, *get_args(Quantization)), quantization=quantization)
    stored = _stored_method(network)
    if tuning == "full" and (quantization or stored):
        found = f"the weights in {network} are quantised" if stored else f"quantization is {quantization}"
        raise ValueError(f"tuning: {found}, and quantised weights cannot be trained; set tuning to lora, got full")
    if quantization and stored:
        raise ValueError(f"quantization: the weights in {network} are already quantised; leave out {quantization}")
    package = PACKAGES.get(quantization) if quantization else stored
    if package and adapters.kind != "lora":
        raise ValueError(f"adapters.kind must be lora with weights quantised by {package}, got {adapters.kind}")
    if package and package in PACKAGES.values() and find_spec(package) is None:
        needed_by = f"quantization {quantization} needs" if quantization else f"the quantised weights in {network} need"
        raise ImportError(f"{needed_by} {package}: pip install 'noiseworks[quantized]'")
    if quantization == "nf4" and not torch.accelerator.is_available():
        raise ValueError("quantization: nf4 needs a GPU; int8 also runs on a CPU")


def _stored_method(network: Path) -> str | None:
    """Return the package that quantised the weights in a folder; None if no quantised weights are there."""
    config = read_json_object(file) if (file := network / "config.json").is_file() else {}
    settings = config.get("quantization_config")
    return str(settings.get("quant_method")) if isinstance(settings, dict) else None


def quantization_config(
    quantization: Quantization | None, dtype: Precision | None, excluded: Sequence[str] = ()
) -> Any:
    """Build the diffusers quantisation config; return None for float8, and if `quantization` is None.

    Args:
        quantization: float8, int8 or nf4.
        dtype: precision of the computation; None means float32.
        excluded: submodules whose weights are not quantised.
    """
    import diffusers

    if quantization in (None, "float8"):
        return None
    if quantization == "nf4":
        return diffusers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype or "float32",
            llm_int8_skip_modules=list(excluded) or None,
        )  # fmt: skip
    from torchao.quantization import Int8WeightOnlyConfig

    return diffusers.TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=list(excluded) or None)


def store_in_float8(network: Any, adapters: Adapters, dtype: Precision | None) -> None:
    """Store the frozen weights of a diffusers network with adapters as float8, and compute in `dtype` or float32."""
    if adapters.dora:
        raise ValueError("adapters.dora must be false with quantization float8: DoRA reads weights outside their layer")
    from diffusers.hooks import HookRegistry

    network.enable_layerwise_casting(FLOAT8, getattr(torch, dtype or "float32"))
    # Adapters stay in float32, so peft must still cast their inputs.
    HookRegistry.check_if_exists_or_initialize(network).remove_hook("peft_autocast_disable", recurse=True)
    for layer in network.modules():
        if any(parameter.dtype == FLOAT8 for parameter in layer.parameters(recurse=False)):
            compute_with_copies(layer, getattr(torch, dtype or "float32"))


def is_quantized(network: nn.Module) -> bool:
    """Return whether a network has quantised weights."""
    return any(_is_quantized(parameter) for parameter in network.parameters())


def prepare_for_ddp(module: nn.Module) -> None:
    """Exclude quantised and offloaded weights from DistributedDataParallel, which cannot broadcast all of them.

    No broadcast is needed, because every rank loads the same weights from the pipeline.
    """
    names = [name for name, parameter in module.named_parameters() if _is_quantized(parameter)]
    names += offloaded_names(module)
    if names:
        leave_out_of_ddp(module, names)


def _is_quantized(weight: Any) -> bool:
    packages = tuple(f"{package}." for package in PACKAGES.values())
    return weight.dtype == FLOAT8 or type(weight).__module__.startswith(packages)


def dequantized_state(network: nn.Module) -> dict[str, Tensor]:
    """Return a network's state dict on the CPU: weights are dequantised, and keys are those without quantisation."""
    from peft.utils.integrations import dequantize_module_weight

    layers = {
        f"{name}.weight": module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and _is_quantized(module.weight) and module.weight.dtype != FLOAT8
    }
    state = {
        key: value.cpu().float() if value.dtype == FLOAT8 else value.cpu()
        for key, value in network.state_dict().items()
        if key not in layers and f"{key.partition('.weight.')[0]}.weight" not in layers  # excludes the weights' scales
    }
    return state | {key: dequantize_module_weight(layer).detach().cpu() for key, layer in layers.items()}
