"""CycleGAN between images and masks, with a shape discriminator and channel calibration.

The generator E maps images x to masks z^ = E(x), and G maps masks z to images x^ = G(z). The cycle reconstructions are
x~ = G(z^) and z~ = E(x^). D_x and D_z are patch discriminators. D_vae is a discriminator of the means mu of a frozen
VAE of masks. The losses are

    L_gen = (D_z(z^) - 1)^2 + lam_v (D_vae(mu(z^)) - 1)^2 + (D_x(x^) - 1)^2 + lam_c (|x~ - x|_1 + w_z BCE(z~, z))
    L_D   = (D(real) - 1)^2 / 2 + D(fake)^2 / 2,      summed over the three discriminators, with detached fakes

Discriminator-guided channel calibration (DGCC): the channels before the last layer of E are multiplied by 2a, where

    a = sigmoid(conv(relu(conv(GAP(h))))),      h: last hidden layer of D_z for the uncalibrated mask.

h is detached. The features before the last layer of E do not depend on a. Therefore, only the last layer of E is
evaluated a second time.

In this file, images are in [-1, 1] and masks in [0, 1]. Losses are means over patches and the batch.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.arguments import at_least
from datamodules.randomness.shared_batches import sample_rows_like
from lightning_modules.networks.shape_vae import ShapeVAE
from lightning_modules.optim.optimizers import temporarily_frozen


class ChannelCalibration(nn.Module):
    """Network that computes the factors 2a of a generator's channels. The factors lie in (0, 2), and are initially 1.

    Args:
        num_guides: number of channels of h, the features of D_z.
        num_channels: number of channels to calibrate; also the number of hidden channels.
    """

    def __init__(self, num_guides: int, num_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(num_guides, num_channels, 1),
            nn.ReLU(),
            nn.Conv2d(num_channels, num_channels, 1),
        )
        nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.layers[-1].bias)  # type: ignore[arg-type]

    def forward(self, guide: Tensor) -> Tensor:
        """Map features h `[B, num_guides, h, w]` to factors `[B, num_channels, 1, 1]`."""
        return 2 * self.layers(guide).sigmoid()


class Translation(nn.Module):
    """The two generators E and G, and the three discriminators.

    Args:
        mask_generator: generator E without the final sigmoid; it maps `[B, C, H, W]` to `[B, 1, H, W]`.
        image_generator: generator G without the final tanh; it maps `[B, 1, H, W]` to `[B, C, H, W]`.
        image_discriminator: discriminator D_x; it maps `[B, C, H, W]` to scores.
        mask_discriminator: discriminator D_z; it maps `[B, 1, H, W]` to scores.
        shape_discriminator: discriminator D_vae; it maps `[B, L]` to scores. None omits D_vae, for training without a
            VAE.
        mask_noise: standard deviation of Gaussian noise that is added to the inputs of D_z (our choice). Without noise,
            D_z could recognise fake masks by their soft values alone.
        calibrated: whether to calibrate the channels of E with features of D_z (DGCC). E and D_z then need the members
            `forward_features`, `last` and `num_features`, as in `ResNetGenerator`, `UNetGenerator` and
            `PatchDiscriminator`.
    """

    def __init__(
        self,
        mask_generator: nn.Module,
        image_generator: nn.Module,
        image_discriminator: nn.Module,
        mask_discriminator: nn.Module,
        shape_discriminator: nn.Module | None = None,
        mask_noise: float = 0.0,
        calibrated: bool = True,
    ) -> None:
        super().__init__()
        at_least(0, mask_noise=mask_noise)
        if calibrated:
            for key, network in (("mask_generator", mask_generator), ("mask_discriminator", mask_discriminator)):
                lacks = [name for name in ("forward_features", "last", "num_features") if not hasattr(network, name)]
                if lacks:
                    raise TypeError(
                        f"calibrated needs a {key} with {', '.join(lacks)}, which {type(network).__name__} lacks"
                    )
        self.mask_generator = mask_generator
        self.image_generator = image_generator
        self.image_discriminator = image_discriminator
        self.mask_discriminator = mask_discriminator
        self.shape_discriminator = shape_discriminator
        self.mask_noise = mask_noise
        self.calibration: ChannelCalibration | None = None
        if calibrated:
            self.calibration = ChannelCalibration(mask_discriminator.num_features, mask_generator.num_features)  # type: ignore[arg-type]

    def discriminators(self) -> list[nn.Module]:
        """Return the discriminators D_x, D_z and, if present, D_vae."""
        shape = [] if self.shape_discriminator is None else [self.shape_discriminator]
        return [self.image_discriminator, self.mask_discriminator, *shape]

    def forward(self, image: Tensor) -> Tensor:
        """Translate images x, `[B, C, H, W]` in [-1, 1], to the logits of their masks E(x), `[B, 1, H, W]`."""
        if self.calibration is None:
            return self.mask_generator(image)
        features, last = self.mask_generator.forward_features(image), self.mask_generator.last  # type: ignore[operator]
        with torch.no_grad():
            guide = self.mask_discriminator.forward_features(last(features).sigmoid())  # type: ignore[operator]
        return last(features * self.calibration(guide))  # type: ignore[operator]

    def judge_mask(self, mask: Tensor) -> Tensor:
        """Compute the scores of D_z for masks `[B, 1, H, W]` in [0, 1], after adding noise to the masks."""
        noise = sample_rows_like(torch.randn, mask) if self.mask_noise else 0
        return self.mask_discriminator(mask + self.mask_noise * noise)

    def image_of(self, mask: Tensor) -> Tensor:
        """Translate masks z, `[B, 1, H, W]` in [0, 1], to images G(z), `[B, C, H, W]` in [-1, 1]."""
        return self.image_generator(mask).tanh()


class Fakes(NamedTuple):
    """Generated masks and images, which are not detached."""

    mask: Tensor
    """Soft masks z^, `[B, 1, H, W]`."""
    image: Tensor
    """Images x^, `[B, C, H, W]`."""


def judged_real(score: Tensor) -> Tensor:
    """Compute the least-squares loss mean (D - 1)^2 of scores D, which is 0 if all of them are 1 (real)."""
    return (score - 1).square().mean()


def judged_false(score: Tensor) -> Tensor:
    """Compute the least-squares loss of scores whose target is "fake", mean D^2."""
    return score.square().mean()


def cycle_term(
    image_again: Tensor, image: Tensor, mask_logits_again: Tensor, mask: Tensor, mask_weight: float
) -> Tensor:
    """Compute |x~ - x|_1 + w_z BCE(z~, z), where z~ is given by its logits; both terms are means over pixels."""
    return F.l1_loss(image_again, image) + mask_weight * F.binary_cross_entropy_with_logits(mask_logits_again, mask)


def generator_terms(
    networks: Translation, vae: ShapeVAE | None, image: Tensor, mask: Tensor, mask_cycle_weight: float
) -> tuple[dict[str, Tensor], Fakes]:
    """Compute the unweighted terms of the generator loss L_gen, with the discriminators and the VAE frozen.

    Args:
        networks: generators E and G, and the discriminators.
        vae: trained VAE of masks; it is needed if there is a D_vae.
        image: images x, `[B, C, H, W]` in [-1, 1].
        mask: unpaired masks z, `[B, 1, H, W]` in [0, 1].
        mask_cycle_weight: weight w_z.

    Returns:
        The terms `image` (D_x), `mask` (D_z), `shape` (D_vae, if present) and `cycle`; and the generated fakes.
    """
    fixed = networks.discriminators() + ([] if vae is None else [vae])
    with temporarily_frozen(*fixed):
        fakes = Fakes(networks(image).sigmoid(), networks.image_of(mask))
        terms = {
            "image": judged_real(networks.image_discriminator(fakes.image)),
            "mask": judged_real(networks.judge_mask(fakes.mask)),
            "cycle": cycle_term(networks.image_of(fakes.mask), image, networks(fakes.image), mask, mask_cycle_weight),
        }
        if networks.shape_discriminator is not None:
            assert vae is not None
            terms["shape"] = judged_real(networks.shape_discriminator(vae.encode(fakes.mask)[0]))
    return terms, fakes


def discriminator_loss(
    networks: Translation, vae: ShapeVAE | None, image: Tensor, mask: Tensor, fakes: Fakes
) -> Tensor:
    """Compute L_D, summed over the discriminators, with detached fakes; for the arguments, see `generator_terms`."""
    false_mask, false_image = fakes.mask.detach(), fakes.image.detach()
    pairs: list[tuple[Callable[[Tensor], Tensor], Tensor, Tensor]] = [
        (networks.image_discriminator, image, false_image),
        (networks.judge_mask, mask, false_mask),
    ]
    if networks.shape_discriminator is not None:
        assert vae is not None
        with torch.no_grad():
            pairs.append((networks.shape_discriminator, vae.encode(mask)[0], vae.encode(false_mask)[0]))
    loss = image.new_zeros(())
    for discriminator, real, false in pairs:
        # Real and fake samples share one forward pass, because the networks process samples independently.
        of_real, of_false = discriminator(torch.cat([real, false])).chunk(2)
        loss = loss + judged_real(of_real) / 2 + judged_false(of_false) / 2
    return loss
