"""Comparison of networks: parameters, buffers, trainable parameters, gradients, and an explicit batch normalisation."""

from typing import Any

import torch
from torch import Tensor, nn


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def trains(network: nn.Module) -> set[str]:
    return {name for name, parameter in network.named_parameters() if parameter.requires_grad}


def same(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def gradients(network: nn.Module, *inputs: Tensor) -> dict[str, Tensor]:
    network.zero_grad()
    output: Any = network(*inputs)
    (output if isinstance(output, Tensor) else output.sample).square().sum().backward()
    return {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}


def warmed(network: nn.Module, *shape: int) -> tuple[Any, Tensor]:
    """Return the network in evaluation mode, in float64 and with updated running statistics, and an image."""
    image = torch.randn(shape, dtype=torch.float64)
    network.double().train()(image)
    return network.eval(), torch.randn(shape, dtype=torch.float64)


def normalized(state: dict[str, Tensor], x: Tensor, name: str, training: bool = False) -> Tensor:
    mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    if training:
        mean, variance = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), unbiased=False)
    x = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
    return x * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]


def rectified(state: dict[str, Tensor], x: Tensor, name: str, training: bool = False) -> Tensor:
    return normalized(state, x, name, training).clamp(min=0)
