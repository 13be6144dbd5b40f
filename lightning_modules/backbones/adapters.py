"""Settings of a diffusers network's LoRA adapters, and a check that a checkpoint's adapters have the same settings."""

from collections.abc import Mapping
from typing import Any

from torch import nn

ADAPTERS = "adapters"
"""Checkpoint key of the adapters' settings."""


def lora_settings(network: nn.Module) -> dict[str, Any] | None:
    """Return rank, alpha and kind of a network's adapters, under peft's names; None without adapters."""
    config: Any = getattr(network, "peft_config", {}).get("default")
    if config is None:
        return None
    return {key: getattr(config, key) for key in ("r", "lora_alpha", "use_rslora", "use_dora")}


def lora_metadata(network: Any) -> dict[str, Any] | None:
    """Return the settings from which diffusers rebuilds adapters; None if the saved weights define the adapters fully.

    The weights define the adapters fully for plain LoRA whose alpha equals its rank.
    """
    settings = lora_settings(network)
    if settings is None or not (settings["use_dora"] or settings["lora_alpha"] != settings["r"] or _rescaled(settings)):
        return None
    return settings | {"target_modules": network.peft_config["default"].target_modules}


def _rescaled(settings: Mapping[str, Any]) -> bool:
    return settings["use_rslora"] and settings["r"] != 1


def check_adapters(network: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Reject a checkpoint whose adapters differ from a network's adapters in rank, alpha or kind.

    Checkpoints without settings were written by older versions; for these, alpha equals the rank.

    Raises:
        ValueError: if a setting differs; the message contains its key, its value and the value in the checkpoint.
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
            name = "lora_rank" if key == "r" else key
            raise ValueError(f"{name} must be {saved[key]}, as in the checkpoint, got {value}")
