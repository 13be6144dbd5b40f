"""Two Gaussian classes with opposite means, the data of the linear model in the theory of early learning.

    x = v + sigma z for class 1,  x = -v + sigma z for class 0,   ||v|| = 1,  z ~ N(0, I_p)

An image has one row of p pixels: 1/2 + x / (2 `reach`), clipped to [0, 1] and rounded to 1/255. A network recovers x if
it first subtracts 1/2 from its input, and then divides the difference by 1 / (2 `reach`). `Normalized` with these two
values does so.

Source: Liu et al., Early-Learning Regularization Prevents Memorization of Noisy Labels, NeurIPS 2020, arXiv 2007.00151,
section 3.
"""

import torch

from datamodules.arguments import at_least, positive
from datamodules.classification.image_sets import ImageSet, ImagesInMemory


class TwoGaussians(ImageSet):
    """Images of two Gaussian classes with opposite means. No download is required.

    All entries of the mean v are 1 / sqrt(p). The theory holds for a number of training images between p and p / (1 -
    Delta / 2), where Delta is the noise rate of `Symmetric`.

    Args:
        num_images: number of training images, and also the number of test images.
        num_pixels: number p of pixels.
        sigma: standard deviation of each entry of x.
        reach: value of x that corresponds to the pixel value 1.
        seed: seed of the images. Label noise and splits depend on the seed of the run instead.
    """

    num_classes = 2

    def __init__(
        self, num_images: int = 500, num_pixels: int = 450, sigma: float = 0.3, reach: float = 2.0, seed: int = 0
    ) -> None:
        at_least(2, num_images=num_images)
        at_least(1, num_pixels=num_pixels)
        positive(sigma=sigma, reach=reach)
        at_least(0, seed=seed)
        self.num_images = num_images
        self.sigma = sigma
        self.reach = reach
        self.seed = seed
        self.image_shape = (1, 1, num_pixels)

    def training(self) -> ImagesInMemory:
        return self._read(0)

    def test(self) -> ImagesInMemory:
        return self._read(1)

    def _read(self, part: int) -> ImagesInMemory:
        random = torch.Generator().manual_seed(2 * self.seed + part)
        label = torch.randint(2, (self.num_images,), generator=random)
        shape = (self.num_images, *self.image_shape)
        mean = (2.0 * label - 1)[:, None, None, None] / self.image_shape[2] ** 0.5
        x = mean + self.sigma * torch.randn(shape, generator=random)
        image = (0.5 + x / (2 * self.reach)).clamp(0, 1)
        return ImagesInMemory((image * 255).round().to(torch.uint8), label)
