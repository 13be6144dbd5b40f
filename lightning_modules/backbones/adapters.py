"""Settings of the LoRA adapters of a diffusers network, and a check that a checkpoint has the same settings."""

from collections.abc import Mapping
from typing import Any

from torch import nn

ADAPTERS = "adapters"
"""Checkpoint key of the adapters' settings."""
NAMES = {"r": "rank", "lora_alpha": "alpha", "use_rslora": "rslora", "use_dora": "dora"}
"""Arguments of `Adapters` that a checkpoint must share, by peft's names."""


def lora_settings(network: nn.Module) -> dict[str, Any] | None:
    """Return the rank, alpha and kind of a network's adapters, under peft's names; None if there are no adapters."""
    config: Any = getattr(network, "peft_config", {}).get("default")
    if config is None:
        return None
    return {key: getattr(config, key) for key in NAMES}


def lora_metadata(network: Any) -> dict[str, Any] | None:
    """Return the settings that diffusers needs to rebuild a network's adapters; None if the weights are sufficient.

    The weights are sufficient for plain LoRA with an alpha equal to the rank.
    """
    settings = lora_settings(network)
    if settings is None or not (settings["use_dora"] or settings["lora_alpha"] != settings["r"] or _rescale(settings)):
        return None
    return settings | {"target_modules": network.peft_config["default"].target_modules}


def _rescale(settings: Mapping[str, Any]) -> bool:
    return settings["use_rslora"] and settings["r"] != 1


def check_adapters(network: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Reject a checkpoint if the rank, alpha or kind of its adapters differs from that of a network's adapters.

    Checkpoints from older versions do not contain these settings. Their adapters are plain LoRA with an alpha equal to
    the rank.
    """
    own = lora_settings(network)
    downs = [value for key, value in checkpoint["state_dict"].items() if ".lora_A." in key]
    if (own is None) != (not downs):
        has, other = ("has", "full") if downs else ("has no", "lora")
        raise ValueError(f"tuning: the checkpoint {has} adapters, but tuning is {other}")
    if own is None:
        return
    rank = len(downs[0])
    saved = checkpoint.get(ADAPTERS) or {"r": rank, "lora_alpha": rank, "use_rslora": False, "use_dora": False}
    for key, value in own.items():
        if saved[key] != value:
            raise ValueError(f"adapters.{NAMES[key]} must be {saved[key]}, as in the checkpoint, got {value}")
