"""Denoise one image by a network that is fitted to this image from a random input (Deep Image Prior).

A network with random weights maps a fixed random input z to the noisy image y. At each step, new noise n is added to
the input:

    L = mean (f(z + n) - y)^2,    z ~ U(0, 0.1),    n ~ N(0, s^2),    s = 1/30.

A convolutional network fits image structure before noise. The fit therefore stops after a fixed number of steps. The
estimate is the exponential moving average of the outputs.

Here any network is used; the paper has an encoder-decoder network of its own.

Source: Ulyanov, Vedaldi and Lempitsky, Deep Image Prior, CVPR 2018, arXiv 1711.10925; s, average and learning rate are
those of the authors' denoising notebook.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.arguments import at_least, positive, within
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.image_quality import EvaluationProtocol, ImageQuality
from lightning_modules.tasks.single_image import SingleImageBaseline, with_new_weights

GREATEST_INPUT = 0.1


class DeepImagePrior(SingleImageBaseline, MethodModule):
    """Denoise each image by a network that is fitted to the image from a random input.

    Nothing is trained: use test and predict. Initial weights and noise are seeded by the run's seed and the image's
    index; use a batch size of 1.

    Args:
        network: architecture that maps `[1, input_channels, H, W]` to `[1, C, H, W]`; each fit uses a copy with new
            weights.
        input_channels: channels of the random input z.
        steps: optimizer steps per image.
        input_noise: s, standard deviation of the noise that is added to the input at each step.
        average: decay factor of the running average of the outputs, in [0, 1).
        learning_rate: learning rate of Adam.
        protocol: preprocessing of estimates before metrics are computed: `rounded` clips to [0, 1] and rounds to 256
            levels, `clipped` only clips, and `unclipped` changes nothing.

    Raises:
        ValueError: if an argument is out of range; at setup, if the command is `fit`.
    """

    def __init__(
        self,
        network: nn.Module,
        input_channels: int = 32,
        steps: int = 3000,
        input_noise: float = 1 / 30,
        average: float = 0.99,
        learning_rate: float = 0.01,
        protocol: EvaluationProtocol = "rounded",
    ) -> None:
        super().__init__()
        at_least(1, input_channels=input_channels, steps=steps)
        at_least(0, input_noise=input_noise)
        within(0, 1, "[)", average=average)
        positive(learning_rate=learning_rate)
        self.network = network.requires_grad_(False)  # only a template: each image's copy is re-initialised
        self.input_channels = input_channels
        self.steps = steps
        self.input_noise = input_noise
        self.average = average
        self.learning_rate = learning_rate
        self.quality = ImageQuality(protocol)

    def fitted_estimate(self, noisy: Tensor) -> Tensor:
        network = with_new_weights(self.network).to(noisy)
        optimizer = torch.optim.Adam(network.parameters(), lr=self.learning_rate)
        z = GREATEST_INPUT * torch.rand_like(noisy[:, :1].expand(-1, self.input_channels, -1, -1))
        average: Tensor | None = None
        for _ in range(self.steps):
            output = network(z + self.input_noise * torch.randn_like(z))
            loss = F.mse_loss(output, noisy)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            last = output.detach()
            average = last if average is None else self.average * average + (1 - self.average) * last
        assert average is not None
        return average
