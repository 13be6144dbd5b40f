"""Layers with 2:4 weights in torch's semi-structured format: which layers, their weights, and rejections."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.efficiency.nm_sparsity import in_semi_structured_kernels, kernels
from lightning_modules.efficiency.nm_sparsity.flow import Flow, Pattern, sparsify
from tests.efficiency.wta_crs.networks import vit


def sparse(n: int = 2, m: int = 4, **arguments: Any) -> nn.Module:
    network = vit()
    sparsify(network, Pattern(n, m, own={"*.fc2": [1, 4]}, **arguments), ["*.fc1"], Flow("ste"))
    return network.eval()


def test_two_of_four_are_put_in_the_format_and_give_the_same_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    network, image = sparse(), torch.rand(2, 1, 8, 8)
    expected = network(image)
    given: list[Tensor] = []
    monkeypatch.setattr(kernels, "HALF", (torch.float32,))
    monkeypatch.setattr(kernels, "DEVICE", "cpu")
    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", lambda weight: given.append(weight) or weight)
    assert in_semi_structured_kernels(network) == ["blocks.0.mlp.fc1", "blocks.1.mlp.fc1"]
    assert all((weight.view(-1, 4) != 0).sum(dim=1).eq(2).all() for weight in given)
    assert type(network.get_submodule("blocks.1.mlp.fc1")) is nn.Linear
    torch.testing.assert_close(network(image), expected)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (sparse(), "float16 or bfloat16 on a GPU, but blocks.0.mlp.fc1 is torch.float32 on cpu"),
        (sparse(1, 4), "2:4 sparse along their inputs, got none"),
        (sparse(along="outputs"), "2:4 sparse along their inputs, got none"),
    ],
)
def test_what_has_no_kernel_is_named(network: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        in_semi_structured_kernels(network)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="semi-structured kernels are for GPUs")
def test_logits_stay_on_a_gpu() -> None:
    network = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 128)).cuda().half()
    sparsify(network, Pattern(2, 4), ["0", "2"], Flow("ste"))
    rows = torch.randn(64, 128, device="cuda", dtype=torch.float16)
    expected = network.eval()(rows)
    assert in_semi_structured_kernels(network) == ["0", "2"]
    torch.testing.assert_close(network(rows), expected, rtol=1e-2, atol=1e-2)
