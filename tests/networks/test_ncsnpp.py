import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_modules.backbones import in_dtype
from lightning_modules.networks.ncsnpp import NCSNpp

DDPMPP: dict[str, Any] = {
    "fir": False,
    "pyramid": "none",
    "embedding": "positional",
    "centre_input": False,
    "divide_by_level": False,
}
SMALL: dict[str, Any] = {"image_size": 8, "channels": 1, "width": 8, "multipliers": (1, 2), "num_blocks": 1}


def drawn(**options: Any) -> NCSNpp:
    """Build a network whose last layers are not close to zero."""
    torch.manual_seed(0)
    network = NCSNpp(**{**SMALL, "attention_sizes": (4,), **options})
    for parameter in network.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()


def image() -> Tensor:
    return torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_the_output_is_divided_by_sigma_and_the_input_brought_to_its_range() -> None:
    level = torch.tensor([0.1, 20.0])
    network = drawn()
    output = network(image(), level)
    network.divide_by_level = False
    torch.testing.assert_close(output, network(image(), level) / level.view(-1, 1, 1, 1))
    undivided, network.centre_input = network(image(), level), False
    torch.testing.assert_close(network(2 * image() - 1, level), undivided)
    assert not torch.allclose(network(image(), level.flip(0)), network(image(), level))


@pytest.mark.parametrize("options", [{}, DDPMPP, {"pyramid": "skip"}], ids=["NCSN++", "DDPM++", "skips"])
def test_every_parameter_is_used_and_copies_are_alike(options: dict[str, Any]) -> None:
    network, level = drawn(**options), torch.tensor([0.5, 2.0])
    output = network(image(), level)
    assert output.shape == (2, 1, 8, 8)
    output.square().sum().backward()
    unused = [name for name, value in network.named_parameters() if value.requires_grad and value.grad is None]
    assert not unused
    assert torch.equal(copy.deepcopy(network)(image(), level), output)


def test_a_new_network_predicts_nearly_nothing() -> None:
    torch.manual_seed(0)
    assert float(NCSNpp(**SMALL, **DDPMPP)(image(), torch.tensor([1.0, 500.0])).abs().max()) < 1e-3


def test_in_half_precision_levels_keep_theirs() -> None:
    network = drawn()
    expected = network(image(), torch.tensor([0.01, 0.011]))
    output = in_dtype(network, "bfloat16")(image(), torch.tensor([0.01, 0.011]))
    assert network.embedding.weight.dtype == torch.float32
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, expected, rtol=0.1, atol=0.05 * float(expected.abs().max()))
