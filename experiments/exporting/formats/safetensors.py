"""only weights; timm and diffusers load the weights of their networks; other networks need their code"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from experiments.exporting.folder import Export
from experiments.exporting.preprocessing import timm_keys

WEIGHTS = "model.safetensors"


def write(folder: Path, export: Export) -> str:
    """Write the weights that the function uses, in the layout of timm or diffusers for a network of these libraries."""
    module = export.module
    parts = {name.partition(".")[0] for name in export.traced.weights}
    network: Any = module
    config: dict[str, Any] = {}
    if parts == {"network"}:
        network = module.network
        while type(network).__module__.startswith("lightning_modules.backbones") and hasattr(network, "network"):
            config |= {
                key: getattr(network, key).flatten().tolist() for key in ("mean", "std") if hasattr(network, key)
            }
            network = network.network  # unwraps normalisation, scheduler or pipeline
        config["network"] = f"{type(network).__module__}.{type(network).__qualname__}"
        tensors = dict(network.state_dict() if export.state is None else export.state)
    else:
        tensors = {name: value for name, value in module.state_dict().items() if name.partition(".")[0] in parts}
    tensors = {name: value.detach().contiguous().clone() for name, value in tensors.items()}
    if hasattr(network, "save_pretrained") and type(network).__module__.startswith("diffusers."):
        plain = type(network).from_config(network.config)
        plain.load_state_dict(tensors)
        plain.save_pretrained(folder)
        kind = type(network).__name__
        return f'from diffusers import {kind}\n\nnetwork = {kind}.from_pretrained(".")\n'
    save_file(tensors, folder / WEIGHTS)
    if timm_config := _timm_config(network, tensors, export.traced.sizes):
        timm_config["pretrained_cfg"] |= {key: config[key] for key in ("mean", "std") if key in config}
        timm_config["pretrained_cfg"] |= timm_keys(export.preprocessed)
        export.config |= config | timm_config | {"label_names": export.config["class_names"]}
        return 'import timm\n\nnetwork = timm.create_model("local-dir:.", pretrained=True).eval()  # scaled images\n'
    export.config |= config
    return f'from safetensors.torch import load_file\n\nweights = load_file("{WEIGHTS}")  # tensors by name\n'


def _timm_config(network: Any, tensors: Mapping[str, Tensor], shape: Mapping[str, int]) -> dict[str, Any]:
    """Return the keys with which `timm.create_model` builds the network, or no keys if the network is not from timm."""
    given = getattr(network, "pretrained_cfg", None)
    if not isinstance(given, Mapping) or not type(network).__module__.startswith("timm."):
        return {}
    import timm

    channels = {} if shape["C"] == 3 else {"in_chans": shape["C"]}
    for size in ({}, {"img_size": [shape["H"], shape["W"]]}):
        config = {
            "architecture": given["architecture"],
            "num_classes": network.num_classes,
            "model_args": {**channels, **size},
            "pretrained_cfg": {"num_classes": network.num_classes, "input_size": [shape["C"], shape["H"], shape["W"]]},
        }
        with suppress(Exception), torch.device("meta"):  # for a modified architecture, or one without img_size
            arguments: dict[str, Any] = {**channels, **({"img_size": (shape["H"], shape["W"])} if size else {})}
            fresh = timm.create_model(config["architecture"], num_classes=network.num_classes, **arguments)
            own = {name: value.shape for name, value in fresh.state_dict().items()}
            if own == {name: value.shape for name, value in tensors.items()}:
                return config
    return {}
