"""DnCNN: convolutions that predict the noise of an image.

    f(y) = y - R(y),        R: conv, ReLU, (D - 2) x (conv, batch normalisation, ReLU), conv

The kernels have 3 x 3 pixels. Each pixel of the estimate therefore depends only on input pixels that are at most D
pixels away.

Source: Zhang, Zuo, Chen, Meng and Zhang, Beyond a Gaussian Denoiser: Residual Learning of Deep CNN for Image Denoising,
IEEE Transactions on Image Processing 2017, arXiv 1608.03981.
"""

from torch import Tensor, nn

from datamodules.arguments import at_least


class DnCNN(nn.Module):
    """Estimate clean images from noisy images of the same size. With depth 17, this is the paper's DnCNN-S.

    Args:
        channels: channels of an image.
        depth: number of convolutions, D, at least 2.
        features: number of channels of the inner layers.
        batch_norm: whether batch normalisation follows the inner convolutions; if false, these convolutions have
            biases.
        residual: whether to return the image minus the result R(y) of the convolutions; if false, R(y) itself is
            returned.
    """

    def __init__(
        self, channels: int = 1, depth: int = 17, features: int = 64, batch_norm: bool = True, residual: bool = True
    ) -> None:
        super().__init__()
        at_least(1, channels=channels, features=features)
        at_least(2, depth=depth)
        layers: list[nn.Module] = [nn.Conv2d(channels, features, 3, padding=1), nn.ReLU(inplace=True)]
        for _ in range(depth - 2):
            layers.append(nn.Conv2d(features, features, 3, padding=1, bias=not batch_norm))
            layers += [nn.BatchNorm2d(features)] if batch_norm else []
            layers.append(nn.ReLU(inplace=True))
        layers.append(nn.Conv2d(features, channels, 3, padding=1))
        self.residual = residual
        self.noise = nn.Sequential(*layers)
        for layer in self.noise:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, noisy: Tensor) -> Tensor:
        return noisy - self.noise(noisy) if self.residual else self.noise(noisy)
