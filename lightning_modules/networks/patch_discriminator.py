"""The discriminator of image translation (PatchGAN): it classifies each patch as real or fake.

All convolutions are 4x4. All except the last are followed by LeakyReLU(0.2), and all except the first and the last also
by instance normalisation. The first `num_downsamplings` convolutions have stride 2, and double the width up to eight
times the first width. A convolution of stride 1 and an output layer with a single channel follow. Each score depends on
70 x 70 pixels with three downsamplings, and on 34 x 34 pixels with two.

Source: Isola et al., Image-to-Image Translation with Conditional Adversarial Networks, CVPR 2017, arXiv 1611.07004,
with the instance normalisation of CycleGAN (Zhu et al., ICCV 2017, arXiv 1703.10593).
"""

from torch import Tensor, nn

from lightning_modules.networks.cycle_generator import small_normal_weights


class PatchDiscriminator(nn.Module):
    """Map images `[B, C, H, W]` to scores `[B, 1, h, w]`, one for each patch.

    Args:
        in_channels: channels of an image, C.
        width: number of channels after the first convolution.
        num_downsamplings: number of convolutions with stride 2.
    """

    def __init__(self, in_channels: int, width: int = 64, num_downsamplings: int = 3) -> None:
        super().__init__()
        for key, value in (("in_channels", in_channels), ("width", width), ("num_downsamplings", num_downsamplings)):
            if value < 1:
                raise ValueError(f"{key} must be at least 1, got {value}")
        layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        before = width
        for level in range(1, num_downsamplings + 1):
            after = width * min(2**level, 8)
            stride = 2 if level < num_downsamplings else 1
            layers += [nn.Conv2d(before, after, 4, stride, padding=1), nn.InstanceNorm2d(after), nn.LeakyReLU(0.2)]
            before = after
        self.features = nn.Sequential(*layers)
        self.last = nn.Conv2d(before, 1, 4, padding=1)
        self.num_features = before
        self.apply(small_normal_weights)

    def forward_features(self, image: Tensor) -> Tensor:
        """Map images `[B, C, H, W]` to the features of the last hidden layer, `[B, num_features, h + 1, w + 1]`."""
        return self.features(image)

    def forward(self, image: Tensor) -> Tensor:
        return self.last(self.features(image))
