import math
from typing import Any

import pytest
import torch
from torch import nn

from lightning_modules.networks.blind_spot import BlindSpotNetwork, CentreMaskedConvolution


def opened(**arguments: Any) -> BlindSpotNetwork:
    """Build a small network whose ReLUs are all active and whose paths do not cancel, so every path has a gradient."""
    network = BlindSpotNetwork(channels=4, **arguments).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    return network


def seen_by(network: nn.Module, masked: bool, size: int = 23) -> torch.Tensor:
    """Return the gradient of the output's central pixel with respect to each input pixel, `[H, W]`."""
    image = torch.rand(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    network(image, masked)[0, :, size // 2, size // 2].sum().backward()
    assert image.grad is not None
    return image.grad[0].abs().sum(dim=0)


@pytest.mark.parametrize("module_relu", [True, False])
@pytest.mark.parametrize("modules", [1, 2])
def test_a_pixel_is_not_seen_in_its_own_place_unless_unmasked(module_relu: bool, modules: int) -> None:
    network = opened(modules=modules, module_relu=module_relu)
    masked, unmasked = seen_by(network, True), seen_by(network, False)
    assert masked[11, 11] == 0
    assert unmasked[11, 11] > 0
    reach = 2 + 3 * modules  # reach of the wider branch
    assert masked[11, 11 + reach] > 0
    assert masked[11, 12 + reach] == unmasked[11, 12 + reach] == 0
    near = masked[10:13, 10:13].flatten().tolist()
    assert min(near[:4] + near[5:]) > 0


def test_it_has_the_size_and_the_names_of_the_authors_network() -> None:
    with torch.device("meta"):
        network = BlindSpotNetwork()
    assert sum(parameter.numel() for parameter in network.parameters()) == 3_656_131
    dilated = [f"body.{number}.body.{layer}" for number in range(6, 15) for layer in (0, 2)]
    branch = ["body.0", "body.2", "body.4", *dilated, "body.15"]
    layers = [
        "head.0",
        *(f"branch{b}.{layer}" for b in (1, 2) for layer in branch),
        *(f"tail.{n}" for n in (0, 2, 4, 6)),
    ]
    names = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert set(network.state_dict()) == names | {"branch1.body.0.mask", "branch2.body.0.mask"}
    assert network(torch.rand(2, 3, 6, 7, device="meta")).shape == (2, 3, 6, 7)


def test_it_is_the_layers_of_the_paper() -> None:
    torch.manual_seed(0)
    network = BlindSpotNetwork(1, channels=16, modules=2, module_relu=True).double()
    image, weight = torch.rand(2, 1, 9, 8, dtype=torch.float64), network.state_dict()

    def layer(x: torch.Tensor, name: str, dilation: int = 1) -> torch.Tensor:
        kernel = weight[f"{name}.weight"]
        reach = dilation * (kernel.shape[-1] // 2)
        return nn.functional.conv2d(x, kernel, weight[f"{name}.bias"], padding=reach, dilation=dilation)

    for masked in (True, False):
        first, parts = layer(image, "head.0").relu(), []
        for number, dilation in ((1, 2), (2, 3)):
            name = f"branch{number}.body"
            kernel = weight[f"{name}.0.weight"].clone()
            if masked:
                kernel[:, :, dilation - 1, dilation - 1] = 0
            x = nn.functional.conv2d(first, kernel, weight[f"{name}.0.bias"], padding=dilation - 1).relu()
            x = layer(layer(x, f"{name}.2").relu(), f"{name}.4").relu()
            for module in (6, 7):
                x = x + layer(layer(x, f"{name}.{module}.body.0", dilation).relu(), f"{name}.{module}.body.2").relu()
            parts.append(layer(x, f"{name}.8").relu())
        x = torch.cat(parts, dim=1)
        for number in (0, 2, 4):
            x = layer(x, f"tail.{number}").relu()
        torch.testing.assert_close(network(image, masked), layer(x, "tail.6"), rtol=0, atol=1e-12)
        assert x.flatten(2).std(dim=2).max() > 0.01  # not all ReLUs are inactive


def test_the_centre_tap_learns_without_the_mask_alone() -> None:
    network, image = opened(modules=1), torch.rand(1, 3, 8, 8, dtype=torch.float64)
    for masked in (True, False):
        network.zero_grad()
        network(image, masked).sum().backward()
        for branch, middle in ((network.branch1, 1), (network.branch2, 2)):
            gradient = branch.body[0].weight.grad
            assert isinstance(gradient, torch.Tensor)
            assert bool(gradient[:, :, middle, middle].any()) is not masked
            assert gradient[:, :, 0, 0].any()


def test_weights_begin_he_normal_with_the_relu_of_the_modules() -> None:
    torch.manual_seed(0)
    for layer in BlindSpotNetwork(channels=64, modules=1, module_relu=True).modules():
        if isinstance(layer, nn.Conv2d):
            std = math.sqrt(2 / layer.weight[0].numel())
            assert layer.weight.std().item() == pytest.approx(std, rel=6 / math.sqrt(layer.weight.numel()))
            assert bool(layer.weight.abs().max() > 2.28 * std) is isinstance(layer, CentreMaskedConvolution)
            assert layer.bias is not None
            assert not layer.bias.any()
