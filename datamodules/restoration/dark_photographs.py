"""Bundled photographs that are made dark."""

import numpy as np
from PIL import Image

from datamodules.arguments import positive, within
from datamodules.restoration.images import Images, PairSet, Split

WHITE = 65535


class DarkPhotographs(PairSet):
    """Four photographs of scikit-image in colour, 200 x 300 pixels, and dark versions of them: 0.12 I^1.5 + noise.

    The fourth, a rocket at night, is dark by nature. Training, validation and test images are the same.

    Args:
        exposure: brightness that white keeps, in (0, 1].
        exponent: of the photograph, which darkens shadows more than lights.
        noise: deviation of white Gaussian noise that is added before clipping to [0, 1].

    Raises:
        ValueError: if an argument is out of range.
    """

    channels = 3

    def __init__(self, exposure: float = 0.12, exponent: float = 1.5, noise: float = 0.005) -> None:
        within(0, 1, "(]", exposure=exposure)
        positive(exponent=exponent, noise=noise)
        self.exposure = exposure
        self.exponent = exponent
        self.noise = noise

    def images(self, split: Split) -> Images:
        import skimage.data

        names = ("astronaut", "coffee", "chelsea", "rocket")
        random = np.random.default_rng(0)
        light: list[np.ndarray] = []
        dark: list[np.ndarray] = []
        for name in names:
            small = Image.fromarray(getattr(skimage.data, name)()).resize((300, 200), Image.Resampling.BICUBIC)
            image = np.asarray(small).transpose(2, 0, 1) / 255
            darker = self.exposure * image**self.exponent + random.normal(0, self.noise, image.shape)
            for kind, values in ((light, image), (dark, darker)):
                kind.append((values.clip(0, 1) * WHITE).round().astype(np.uint16))
        return Images(names, light, dark, WHITE)
