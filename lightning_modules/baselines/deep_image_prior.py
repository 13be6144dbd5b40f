"""Deep Image Prior: denoise an image by fitting a network to this image, with a random input.

A network with random weights maps a fixed random input z to the noisy image y. At each step, newly sampled noise n is
added to the input:

    L = mean (f(z + n) - y)^2,    z ~ U(0, 0.1),    n ~ N(0, s^2),    s = 1/30.

A convolutional network fits the structure of the image before it fits the noise. The fit is therefore stopped after a
fixed number of steps. The estimate is the exponential moving average of the outputs.

Here, any network can be used; the paper uses a specific encoder-decoder network.

Source: Ulyanov, Vedaldi and Lempitsky, Deep Image Prior, CVPR 2018, arXiv 1711.10925; s, the moving average and the
learning rate are from the authors' denoising notebook.
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
    """Denoise each image by fitting a network to this image, with a random input.

    There is no training set: run `test` or `predict`, not `fit`. The seed of the run and the index of the image
    determine the initial weights and the noise. Use a batch size of 1.

    Args:
        network: architecture that maps `[1, input_channels, H, W]` to `[1, C, H, W]`. Each fit uses a copy with newly
            initialised weights.
        input_channels: number of channels of the random input z.
        steps: number of optimizer steps per image.
        input_noise: standard deviation s of the noise that is added to the input at each step.
        average: decay of the moving average of the outputs, in [0, 1).
        learning_rate: learning rate of Adam.
        protocol: preprocessing of estimates before metrics are computed: `rounded` clips to [0, 1] and rounds to 256
            levels, `clipped` only clips, and `unclipped` changes nothing.

    Examples:
        >>> network = torch.nn.Conv2d(4, 1, 3, padding=1)
        >>> DeepImagePrior(network, input_channels=4, steps=3).restore(torch.full((2, 1, 8, 8), 0.5)).shape
        torch.Size([2, 1, 8, 8])
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
        self.network = network.requires_grad_(False)  # only a template: a re-initialised copy is fitted to each image
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
