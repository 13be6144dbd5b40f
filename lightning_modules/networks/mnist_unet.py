"""A U-Net for 28 x 28 grey images and 1,000 noise levels. It has half a million parameters; weights can be loaded.

    block: LayerNorm over (C, H, W), conv, SiLU, conv, SiLU;   b(x, t): three blocks on x + W_2 SiLU(W_1 c(t))

The encoder applies one b at each resolution. The resolutions are 28, 14, 7 and 3 pixels, with 10, 20, 40 and 40
channels. The decoder concatenates its features with those of the encoder. The embedding c(t) has sines in its even
columns and cosines in its odd columns. The sine in column j and the cosine in the next column have frequency
10000^{-2j/100}. The last block contains a LayerNorm with parameters, but does not apply it.

Source: B. Pulfer's tutorial (the parameters have its names) on Ho, Jain and Abbeel, Denoising Diffusion Probabilistic
Models, NeurIPS 2020, arXiv 2006.11239. The fixed table c(t), which the tutorial's weight files may contain as
`time_embed.weight`, is computed here, and is not read from the file.
"""

import itertools

import torch
from torch import Tensor, nn

FEATURES = 100


def interleaved_embedding(time: Tensor, num_features: int) -> Tensor:
    """Compute the embedding c(t), `[B, num_features]` in single precision, for times `[B]`."""
    column = torch.arange(0, num_features, 2, device=time.device, dtype=torch.float32)
    angle = time.float()[:, None] * 10000.0 ** (-2 * column / num_features)
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)


class _Block(nn.Module):
    def __init__(self, inside: int, outside: int, size: int, normalize: bool = True) -> None:
        super().__init__()
        self.ln = nn.LayerNorm((inside, size, size)).requires_grad_(normalize)
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1)
        self.act = nn.SiLU()
        self.normalize = normalize

    def forward(self, x: Tensor) -> Tensor:
        x = self.ln(x) if self.normalize else x
        return self.act(self.conv2(self.act(self.conv1(x))))


def _blocks(size: int, *channels: int) -> nn.Sequential:
    return nn.Sequential(*(_Block(inside, outside, size) for inside, outside in itertools.pairwise(channels)))


def _time(outside: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(FEATURES, outside), nn.SiLU(), nn.Linear(outside, outside))


class MNISTUNet(nn.Module):
    """Predict the noise in images `[B, 1, 28, 28]` at times `[B]` in 0..999. Clean images must be in [-1, 1].

    Load trained weights with `lightning_modules.backbones.with_weights`.
    """

    def __init__(self) -> None:
        super().__init__()
        a, b, c = 10, 20, 40
        self.te1, self.te2, self.te3, self.te_mid = _time(1), _time(a), _time(b), _time(c)
        self.te4, self.te5, self.te_out = _time(2 * c), _time(2 * b), _time(2 * a)
        self.b1, self.b2, self.b3 = _blocks(28, 1, a, a, a), _blocks(14, a, b, b, b), _blocks(7, b, c, c, c)
        self.b_mid = _blocks(3, c, b, b, c)
        self.b4, self.b5 = _blocks(7, 2 * c, c, b, b), _blocks(14, 2 * b, b, a, a)
        self.b_out = nn.Sequential(*_blocks(28, 2 * a, a, a), _Block(a, a, 28, normalize=False))
        self.down1, self.down2 = (nn.Conv2d(channels, channels, 4, stride=2, padding=1) for channels in (a, b))
        self.down3 = nn.Sequential(nn.Conv2d(c, c, 2), nn.SiLU(), nn.Conv2d(c, c, 4, 2, 1))
        self.up1 = nn.Sequential(nn.ConvTranspose2d(c, c, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(c, c, 2, 1))
        self.up2, self.up3 = (nn.ConvTranspose2d(channels, channels, 4, 2, 1) for channels in (b, a))
        self.conv_out = nn.Conv2d(a, 1, 3, padding=1)

    def forward(self, image: Tensor, time: Tensor) -> Tensor:
        if image.shape[1:] != (1, 28, 28):
            raise ValueError(f"images must be [B, 1, 28, 28], got {list(image.shape)}")
        embedding = interleaved_embedding(time, FEATURES).to(image.dtype)

        def told(layer: nn.Module) -> Tensor:
            return layer(embedding)[:, :, None, None]

        large = self.b1(image + told(self.te1))
        middle = self.b2(self.down1(large) + told(self.te2))
        small = self.b3(self.down2(middle) + told(self.te3))
        x = self.up1(self.b_mid(self.down3(small) + told(self.te_mid)))
        x = self.up2(self.b4(torch.cat([small, x], dim=1) + told(self.te4)))
        x = self.up3(self.b5(torch.cat([middle, x], dim=1) + told(self.te5)))
        return self.conv_out(self.b_out(torch.cat([large, x], dim=1) + told(self.te_out)))
