"""Names and settings of the adapters of a network, and a check that a checkpoint has the same settings."""

import sys
from collections.abc import Mapping
from typing import Any

from torch import nn

ADAPTERS = "adapters"
"""Checkpoint key of the adapters' settings."""
TEXT = "text_adapters"
"""Checkpoint key of the settings of the text encoders' adapters."""
NAMES = {
    "peft_type": "kind", "r": "rank", "oft_block_size": "rank", "lora_alpha": "alpha", "alpha": "alpha",
    "use_rslora": "rslora", "use_dora": "dora",
}  # fmt: skip
"""Arguments of `Adapters` that a checkpoint must share, by peft's names."""


def adapter_names(network: nn.Module) -> set[str]:
    """Return the names of all tensors of a network's adapters: those of peft's layers outside of the adapted layer."""
    peft: Any = sys.modules.get("peft.tuners.tuners_utils")  # if it was never imported, there are no adapters
    layers = [(name, each) for name, each in network.named_modules() if peft and isinstance(each, peft.BaseTunerLayer)]
    return {f"{name}.{key}" for name, each in layers for key in each.state_dict() if not key.startswith("base_layer.")}


def adapter_settings(network: nn.Module) -> dict[str, Any] | None:
    """Return the rank, alpha and kind of a network's adapters, under peft's names; None if there are no adapters."""
    config: Any = getattr(network, "peft_config", {}).get("default")
    if config is None:
        return None
    found = {key: getattr(config, key) for key in NAMES if hasattr(config, key)}
    return {**found, "peft_type": config.peft_type.value.lower()}


def text_settings(model: Any) -> dict[str, Any] | None:
    """Return the settings of the adapters of a model's text encoders, which are the same for all encoders."""
    return adapter_settings(model.text_encoders[0]) if getattr(model, "trains_text", False) else None


def weights_are_insufficient(network: Any) -> bool:
    """Return whether diffusers needs settings to rebuild a LoRA: not for plain LoRA with an alpha equal to the rank."""
    found = adapter_settings(network) or {}
    return bool(found) and (found["use_dora"] or found["lora_alpha"] != found["r"] or _rescale(found))


def lora_metadata(network: Any) -> dict[str, Any]:
    """Return the settings with which diffusers rebuilds a network's LoRA."""
    settings = {key: value for key, value in (adapter_settings(network) or {}).items() if key != "peft_type"}
    return settings | {"target_modules": network.peft_config["default"].target_modules}


def _rescale(settings: Mapping[str, Any]) -> bool:
    return settings["use_rslora"] and settings["r"] != 1


def check_adapters(network: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Reject a checkpoint if the rank, alpha or kind of its adapters differs from that of a network's adapters.

    Checkpoints from older versions do not contain these settings. Their adapters are plain LoRA with an alpha equal to
    the rank.
    """
    own, saved = adapter_settings(network), checkpoint.get(ADAPTERS)
    rank = next((len(value) for key, value in checkpoint["state_dict"].items() if ".lora_A." in key), None)
    if saved is None and rank is not None:
        saved = {"r": rank, "lora_alpha": rank, "use_rslora": False, "use_dora": False}
    if (own is None) != (saved is None):
        has, other = ("has", "full") if saved else ("has no", "lora")
        raise ValueError(f"tuning: the checkpoint {has} adapters, but tuning is {other}")
    for key, value in (own or {}).items():
        wanted = (saved or {}).get(key, "lora")  # older versions had only LoRA, and did not save its kind
        if wanted != value:
            raise ValueError(f"adapters.{NAMES[key]} must be {wanted}, as in the checkpoint, got {value}")
