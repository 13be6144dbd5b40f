"""Self2Self: denoise an image by fitting a network with dropout to random subsets of the pixel values.

A random mask b keeps each value of the noisy image y with probability 1 - p. The network receives the kept values and
predicts the hidden values:

    L = sum (1 - b) (f(b y / (1 - p)) - y)^2 / sum (1 - b),    b ~ Bernoulli(1 - p).

The dropout of the network stays active after the fit. The estimate is the mean of f(b y / (1 - p)) over many samples of
the mask and of the dropout. At each step of the fit, the image is randomly flipped along each of its two axes.

In the paper, the encoder consists of partial convolutions, whose outputs are renormalised by the number of kept values.
Here, the kept values are divided by 1 - p instead, so that any network with dropout can be used.

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
    """Compute the loss L of one mask.

    Args:
        network: network f that maps images to images.
        noisy: noisy image y, `[1, C, H, W]`.
        kept: mask b, of the same shape: 1 for values that are kept, and 0 for values that are hidden.
        hidden: probability p that a value is hidden.
    """
    error = (network(kept * noisy / (1 - hidden)) - noisy).square()
    return ((1 - kept) * error).sum() / (1 - kept).sum()


class Self2Self(SingleImageBaseline, MethodModule):
    """Denoise each image by fitting a network with dropout that predicts hidden values of this image.

    There is no training set: use only `test` and `predict`. The initial weights and the masks are determined by the
    seed of the run and the index of the image. Use a batch size of 1.

    Args:
        network: architecture with dropout that maps `[1, C, H, W]` to `[1, C, H, W]`. Each fit uses a copy with newly
            initialised weights.
        hidden: probability p that a value is hidden, in (0, 1).
        steps: number of optimizer steps per image.
        predictions: number of samples over which the estimate is averaged.
        learning_rate: learning rate of Adam.
        protocol: preprocessing of estimates before metrics are computed: `rounded` clips to [0, 1] and rounds to 256
            levels, `clipped` only clips, and `unclipped` changes nothing.

    Examples:
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3, padding=1), torch.nn.Dropout(0.3))
        >>> Self2Self(network, steps=3, predictions=2).restore(torch.full((2, 1, 8, 8), 0.5)).shape
        torch.Size([2, 1, 8, 8])
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
        self.network = network.requires_grad_(False)  # only a template: a re-initialised copy is fitted to each image
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
        """Sample the mask b for an image `[1, C, H, W]`."""
        return (torch.rand_like(noisy) >= self.hidden).to(noisy.dtype)
