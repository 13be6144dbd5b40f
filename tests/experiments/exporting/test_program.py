"""Tracing finds the sizes that a function accepts, drops unused inputs, and rejects what is not a function."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.exporting.program import difference, others, trace
from lightning_modules.backbones.tiled import TiledInference
from lightning_modules.interfaces import Exported, ExportedInput

SIZES = {"C": 1, "H": 8, "W": 8}


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Conv2d(1, 1, 3, padding=1)
        self.unused = nn.ModuleList([nn.Linear(50, 50), nn.BatchNorm1d(50)])


def exported(function: Callable[..., Tensor], **more: ExportedInput) -> Any:
    return Exported("test", function, {"image": ExportedInput("B C H W"), **more}, "out", "B C H W", "")


def agrees(traced: Any, thing: Any) -> float:
    graph = traced.program.module()
    return max(difference(graph(*inputs), thing.function(*inputs)) for inputs in others(thing, traced))


def test_a_convolution_takes_images_of_any_size_and_leaves_unused_weights_behind() -> None:
    network = Network()
    traced = trace(network, thing := exported(lambda image: network.used(image)), SIZES)
    assert traced.multiple == 1
    assert traced.weights == {"used.weight", "used.bias"}
    assert len(traced.program.state_dict) == 2
    assert set(network.state_dict()) >= {"unused.0.weight", "unused.1.running_mean"}, "the module itself is unchanged"
    inputs = torch.rand(5, 1, 31, 17)
    torch.testing.assert_close(traced.program.module()(inputs), network.used(inputs), rtol=0, atol=1e-6)
    assert agrees(traced, thing) < 1e-6


def test_a_network_with_strides_takes_their_multiples() -> None:
    network = Network()

    def u_net(image: Tensor) -> Tensor:
        return image + F.interpolate(F.avg_pool2d(network.used(image), 4), scale_factor=4)

    traced = trace(network, thing := exported(u_net), SIZES)
    assert traced.multiple == 4
    assert traced.program.module()(torch.rand(1, 1, 12, 20)).shape == (1, 1, 12, 20)
    assert agrees(traced, thing) < 1e-6


def test_a_restorer_that_pads_to_a_stride_takes_multiples_of_it() -> None:
    network = Network()

    def strided(image: Tensor) -> Tensor:
        return image + F.interpolate(F.avg_pool2d(network.used(image), 4), scale_factor=4)

    inference = TiledInference(multiple=4)
    traced = trace(network, thing := exported(lambda image: inference(strided, image)), SIZES)
    assert traced.multiple == 4
    assert agrees(traced, thing) < 1e-6


def test_flattened_images_have_a_fixed_size() -> None:
    network = Network()
    network.unused = nn.ModuleList([nn.Linear(64, 3)])
    traced = trace(network, exported(lambda image: network.unused[0](image.flatten(1))), SIZES)
    assert traced.multiple == 0
    assert traced.program.module()(torch.rand(70, 1, 8, 8)).shape == (70, 3)


def test_a_branch_for_large_batches_does_not_limit_the_batch() -> None:
    network = Network()

    def stored_in_another_order(image: Tensor, noise: Tensor) -> Tensor:  # as in diffusers' upsampling
        pairs = (image[:, None] + noise).flatten(end_dim=1)
        pairs = pairs.contiguous() if pairs.shape[0] >= 64 else pairs
        return network.used(pairs).unflatten(0, (image.shape[0], noise.shape[0])).mean(dim=1)

    noise = ExportedInput("N C H W", torch.randn)
    traced = trace(network, exported(stored_in_another_order, noise=noise), SIZES)
    graph = traced.program.module()
    for batch, samples in ((1, 1), (9, 8), (100, 2)):
        inputs = torch.rand(batch, 1, 16, 16), torch.randn(samples, 1, 16, 16)
        assert difference(graph(*inputs), stored_in_another_order(*inputs)) < 1e-6


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda image: image + torch.rand(()), r"Network cannot be exported: its prediction depends on random numbers"),
        (lambda image: image if image.sum() > 3 else -image, r"Network cannot be exported: its computation depends on"),
        (lambda image: torch.from_numpy(image.numpy() + 1), r"Network cannot be exported: its computation depends on"),
        (lambda image: image @ torch.rand(5, 5), r"Network cannot process images of 1 x 8 x 8: give --image_shape \("),
    ],
)
def test_what_is_no_function_of_tensors_is_rejected_in_one_sentence(
    function: Callable[..., Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as found:
        trace(Network(), exported(function), SIZES)
    assert "\n" not in str(found.value)
