"""Bundled photographs with artificially darkened versions."""

import numpy as np
from PIL import Image

from datamodules.arguments import positive, within
from datamodules.restoration.images import Images, PairSet, Split

WHITE = 65535


class DarkPhotographs(PairSet):
    """Four colour photographs I of scikit-image, 200 x 300 pixels, and their dark versions 0.12 I^1.5 + noise.

    The fourth photograph, a rocket at night, is itself dark. Training, validation and test images are the same.

    Args:
        exposure: value of white in the dark version, in (0, 1].
        exponent: exponent of the intensity. An exponent above 1 darkens shadows more than highlights.
        noise: standard deviation of white Gaussian noise, added before clipping to [0, 1].
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
