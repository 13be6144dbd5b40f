"""Denoise one image by a network with dropout that is fitted to random subsets of the image's pixels (Self2Self).

Each value of the noisy image y is kept with probability 1 - p by a random mask b. The network sees the kept values and
predicts the others:

    L = sum (1 - b) (f(b y / (1 - p)) - y)^2 / sum (1 - b),    b ~ Bernoulli(1 - p).

The network's dropout is active in the fit and afterwards. The estimate is the mean of f(b y / (1 - p)) over many masks
and dropouts. At each step the image is flipped at random along both axes.

The paper has partial convolutions in the encoder, which are renormalised by the number of kept values. Here kept values
are divided by 1 - p, and any network with dropout is used.

Source: Quan, Chen, Pang and Ji, Self2Self With Dropout: Learning Self-Supervised Denoising From Single Image, CVPR
2020.
"""

import torch
from torch import Tensor, nn

from datamodules.arguments import at_least, positive, within
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.image_quality import EvaluationProtocol, ImageQuality
from lightning_modules.tasks.single_image import SingleImageBaseline, with_new_weights


def self2self_loss(network: nn.Module, noisy: Tensor, kept: Tensor, hidden: float) -> Tensor:
    """Compute L.

    Args:
        network: f, maps images to images.
        noisy: y, `[1, C, H, W]`.
        kept: b, mask of the kept values, of the same shape, 0 or 1.
        hidden: p, probability that a value is hidden.
    """
    error = (network(kept * noisy / (1 - hidden)) - noisy).square()
    return ((1 - kept) * error).sum() / (1 - kept).sum()


class Self2Self(SingleImageBaseline, MethodModule):
    """Denoise each image by a network with dropout that predicts hidden pixels of this image.

    Nothing is trained: use test and predict. Initial weights and masks are seeded by the run's seed and the image's
    index; use a batch size of 1.

    Args:
        network: architecture with dropout that maps `[1, C, H, W]` to `[1, C, H, W]`; each fit uses a copy with new
            weights.
        hidden: p, probability that a value is hidden, in (0, 1).
        steps: optimizer steps per image.
        predictions: number of masks over which the estimate is averaged.
        learning_rate: learning rate of Adam.
        protocol: preprocessing of estimates before metrics are computed: `rounded` clips to [0, 1] and rounds to 256
            levels, `clipped` only clips, and `unclipped` changes nothing.

    Raises:
        ValueError: if an argument is out of range; at setup, if the command is `fit`.
    """

    def __init__(
        self,
        network: nn.Module,
        hidden: float = 0.3,
        steps: int = 150_000,
        predictions: int = 100,
        learning_rate: float = 1e-4,
        protocol: EvaluationProtocol = "rounded",
    ) -> None:
        super().__init__()
        within(0, 1, "()", hidden=hidden)
        at_least(1, steps=steps, predictions=predictions)
        positive(learning_rate=learning_rate)
        self.network = network.requires_grad_(False)  # only a template: each image's copy is re-initialised
        self.hidden = hidden
        self.steps = steps
        self.predictions = predictions
        self.learning_rate = learning_rate
        self.quality = ImageQuality(protocol)

    def fitted_estimate(self, noisy: Tensor) -> Tensor:
        network = with_new_weights(self.network).to(noisy)
        optimizer = torch.optim.Adam(network.parameters(), lr=self.learning_rate)
        for _ in range(self.steps):
            image = noisy
            for axis in (2, 3):
                image = torch.where(torch.rand((), device=noisy.device) < 0.5, image.flip(axis), image)
            loss = self2self_loss(network, image, self.mask(noisy), self.hidden)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        total = torch.zeros_like(noisy)
        with torch.no_grad():
            for _ in range(self.predictions):
                total += network(self.mask(noisy) * noisy / (1 - self.hidden))
        return total / self.predictions

    def mask(self, noisy: Tensor) -> Tensor:
        """Sample b for an image `[1, C, H, W]`."""
        return (torch.rand_like(noisy) >= self.hidden).to(noisy.dtype)
