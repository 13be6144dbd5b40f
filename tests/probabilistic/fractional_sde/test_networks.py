"""The networks for videos: the authors' parameter counts, shapes, the median, and rejections."""

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.probabilistic.fractional_sde.networks import Content, FrameDecoder, FrameEncoder, Inference


@pytest.mark.parametrize(
    ("network", "count"),
    [
        (FrameEncoder(), 1_223_360),
        (FrameDecoder(), 1_325_185),
        (Content(64, 64), 8_320),
        (Inference(64, 6), 46_092),
    ],
    ids=lambda value: type(value).__name__,
)
def test_numbers_of_parameters_are_the_authors(network: nn.Module, count: int) -> None:
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_frames_become_features_and_latents_frames() -> None:
    encoder, decoder = FrameEncoder(3, [8, 16], 12, 5), FrameDecoder(7, 3, [16, 8], 12)
    assert encoder(torch.rand(2, 3, 12, 12)).shape == (2, 5)
    frames = decoder(10 * torch.randn(2, 7))
    assert frames.shape == (2, 3, 12, 12)
    assert frames.min() >= 0
    assert frames.max() <= 1


@pytest.mark.parametrize("times", [4, 5])
def test_contents_are_of_the_median_whatever_the_order(times: int) -> None:
    content, features = Content(3, 2).double(), torch.randn(6, times, 3, dtype=torch.float64)
    median = features.quantile(0.5, dim=1)
    torch.testing.assert_close(content(features), content.layers(median))
    torch.testing.assert_close(content(features.flip(1)), content(features))


def test_the_beginning_is_told_by_the_first_frames_and_the_context_by_those_around() -> None:
    inference, features = Inference(4, 2).double(), torch.randn(3, 9, 4, dtype=torch.float64, requires_grad=True)
    found = inference(features)
    assert (found.std > 0).all()

    def told(value: Tensor) -> list[int]:
        gradient = torch.autograd.grad(value.sum(), features, retain_graph=True)[0]
        return gradient.abs().sum(dim=(0, 2)).nonzero()[:, 0].tolist()

    assert told(found.mean) == [0, 1, 2]
    assert told(found.context[:, 5]) == [3, 4, 5, 6, 7]
