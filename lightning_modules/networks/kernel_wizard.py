"""A network that blurs images; a code k describes the blur.

    blurred = x + recon(adapter(features(x), k))

The convolutions of `features` reduce the image to a quarter of its size. The adapter is a U-Net of five levels. At the
level with the lowest resolution, the code k is concatenated with the features. `recon` upsamples the result to the size
of the image.

Source: Tran, Tran, Phung and Hoai, Explore Image Deblurring via Encoded Blur Kernel Space, CVPR 2021, arXiv 2104.00317,
with the layers and names of the authors' code. Departure: the network F, which encodes the blur of a pair of images,
is not needed for blurring and is left out.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.arguments import at_least
from lightning_modules.backbones.weights import load, on_meta, read_weights

ENCODER = "kernel_extractor."
"""Prefix of the weight names of the encoder F; weights with this prefix are ignored."""
LAST = 64
"""Number of channels in the last layers."""


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x)))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))


class AdapterLevel(nn.Module):
    """One level of the adapter: downsample, apply the next level, upsample, and concatenate the result with the input.

    Args:
        outside: channels of the input and of the upsampled result.
        inside: channels of the downsampled input.
        submodule: next level. At the smallest level, it is None, and the code is concatenated instead.
    """

    def __init__(self, outside: int, inside: int, submodule: nn.Module | None) -> None:
        super().__init__()
        reduce = nn.Conv2d(outside, inside, 4, stride=2, padding=1, bias=False)
        enlarge = nn.ConvTranspose2d(2 * inside, outside, 4, stride=2, padding=1, bias=False)
        self.down = nn.Sequential(nn.Identity(), reduce)
        self.submodule = submodule
        self.up = nn.Sequential(nn.ReLU(), enlarge)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        # The authors' code activates x in place, and therefore also concatenates the activated input.
        x = F.leaky_relu(x, 0.2)
        inside = self.down(x)
        inside = torch.cat((inside, code), dim=1) if self.submodule is None else self.submodule(inside, code)
        return torch.cat((self.up(inside), x), dim=1)


class Adapter(nn.Module):
    """The adapter. No activation precedes its outermost level, and tanh follows this level."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        level = AdapterLevel(8 * channels, 8 * channels, None)
        for outside in (4, 2, 1):
            level = AdapterLevel(outside * channels, 2 * outside * channels, level)
        self.down = nn.Sequential(nn.Conv2d(channels, channels, 4, stride=2, padding=1, bias=False))
        self.submodule = level
        self.up = nn.Sequential(
            nn.ReLU(), nn.ConvTranspose2d(2 * channels, channels, 4, stride=2, padding=1), nn.Tanh()
        )

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        return self.up(self.submodule(self.down(x), code))


class AdapterOfCodes(nn.Module):
    """A wrapper around the adapter, so that the names of its weights are the published names."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.model = Adapter(channels)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        return self.model(x, code)


class KernelWizard(nn.Module):
    """Map images `[B, 3, H, W]` in [0, 1] and codes `[B, code_channels, H / 128, W / 128]` to blurred images.

    Args:
        features: number of channels of the features.
        front_blocks: number of residual blocks before the adapter.
        back_blocks: number of residual blocks after the adapter.
    """

    def __init__(self, features: int = 64, front_blocks: int = 10, back_blocks: int = 20) -> None:
        super().__init__()
        at_least(1, features=features)
        at_least(0, front_blocks=front_blocks, back_blocks=back_blocks)
        self.code_channels = 8 * features
        self.feature_extractor = nn.Sequential(
            nn.Conv2d(3, features, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(features, features, 3, stride=2, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(features, features, 3, stride=2, padding=1),
            nn.LeakyReLU(0.1),
            *(ResidualBlock(features) for _ in range(front_blocks)),
        )
        self.adapter = AdapterOfCodes(features)
        self.recon_trunk = nn.Sequential(
            *(ResidualBlock(features) for _ in range(back_blocks)),
            nn.Conv2d(features, 4 * features, 3, padding=1),
            nn.PixelShuffle(2),
            nn.LeakyReLU(0.1),
            nn.Conv2d(features, 4 * LAST, 3, padding=1),
            nn.PixelShuffle(2),
            nn.LeakyReLU(0.1),
            nn.Conv2d(LAST, LAST, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(LAST, 3, 3, padding=1),
        )

    def forward(self, image: Tensor, code: Tensor) -> Tensor:
        return image + self.recon_trunk(self.adapter(self.feature_extractor(image), code))


def kernel_wizard_weights(path: str, network: nn.Module | None = None) -> nn.Module:
    """Load published weights, such as `GOPRO_wVAE.pth`. No code in the file is run.

    Args:
        path: file of weights under the authors' names. Weights of the encoder F are ignored.
        network: `KernelWizard` that receives the weights; None builds one of the published size.
    """
    network = KernelWizard() if network is None else network
    if not on_meta(network):
        weights = read_weights(path)
        load(network, {key: value for key, value in weights.items() if not key.startswith(ENCODER)}, path)
    return network.requires_grad_(False).eval()
