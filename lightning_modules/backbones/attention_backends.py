"""Choose the implementation of attention in a diffusers network by name."""

from typing import Any


def check_attention_backend(name: str | None) -> None:
    """Reject an attention backend that is unknown, or whose package is not installed, before any weights are loaded."""
    if name is None:
        return
    from diffusers.models import attention_dispatch as diffusers

    names = [each.value for each in diffusers.AttentionBackendName]
    if name not in names:
        raise ValueError(f"weights.attention_backend must be one of {', '.join(names)}, got {name!r}")
    try:
        diffusers._check_attention_backend_requirements(diffusers.AttentionBackendName(name))
    except RuntimeError as error:
        raise ImportError(f"weights.attention_backend {name}: {error}") from error


def set_attention_backend(network: Any, name: str | None) -> None:
    """Set the attention backend of a network, and reject a network whose attention has a fixed implementation."""
    if name is None:
        return
    processors = [getattr(module, "processor", None) for module in network.modules()]
    if not any(hasattr(processor, "_attention_backend") for processor in processors):
        raise ValueError(
            f"weights.attention_backend must be null: diffusers has no choice for {type(network).__name__}, got {name}"
        )
    network.set_attention_backend(name)
