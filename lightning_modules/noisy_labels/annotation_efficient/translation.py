"""A CycleGAN between images and masks, with a discriminator of shapes and calibrated channels.

E maps images x to masks, G masks z to images; ~ marks what has gone round once. With D_x, D_z on patches, D_vae on the
means mu of a frozen VAE of masks, z^ = E(x), x^ = G(z), x~ = G(z^), z~ = E(x^):

    L_gen = (D_z(z^) - 1)^2 + lam_v (D_vae(mu(z^)) - 1)^2 + (D_x(x^) - 1)^2 + lam_c (|x~ - x|_1 + w_z BCE(z~, z))
    L_D   = (D(real) - 1)^2 / 2 + D(fake)^2 / 2,      summed over the three, fakes without gradient

Discriminator-guided calibration (DGCC): E's channels in front of its last layer are scaled by 2a, where

    a = sigmoid(conv(relu(conv(GAP(h))))),      h: D_z's last hidden layer for the mask without calibration,

h without gradient. The features in front do not depend on a, so that the second pass of E is its last layer alone.

Here images are in [-1, 1] and masks in [0, 1]. The losses are means over patches and batch.
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
    """Compute 2a, factors in (0, 2) for the channels of a generator; at first all are 1.

    Args:
        num_guides: channels of h.
        num_channels: channels to calibrate, and those between the two convolutions.
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
        """Map h `[B, num_guides, h, w]` to factors `[B, num_channels, 1, 1]`."""
        return 2 * self.layers(guide).sigmoid()


class Translation(nn.Module):
    """Hold the two generators, E and G, and the three discriminators.

    Args:
        mask_generator: E without its sigmoid; maps `[B, C, H, W]` to `[B, 1, H, W]`.
        image_generator: G without its tanh; maps `[B, 1, H, W]` to `[B, C, H, W]`.
        image_discriminator: D_x; maps `[B, C, H, W]` to scores.
        mask_discriminator: D_z; maps `[B, 1, H, W]` to scores.
        shape_discriminator: D_vae; maps `[B, L]` to scores. None leaves it out: a CycleGAN without a VAE.
        mask_noise: standard deviation of Gaussian noise on the masks that D_z judges, so that it cannot tell the
            false ones by their softness alone (our choice).
        calibrated: whether D_z guides E. E and D_z then need `forward_features`, `last` and `num_features`, as
            `ResNetGenerator`, `UNetGenerator` and `PatchDiscriminator` have them.

    Raises:
        TypeError: if a network lacks what the calibration needs.
        ValueError: if `mask_noise` is negative.
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
        """List D_x, D_z and, if there is one, D_vae."""
        shape = [] if self.shape_discriminator is None else [self.shape_discriminator]
        return [self.image_discriminator, self.mask_discriminator, *shape]

    def forward(self, image: Tensor) -> Tensor:
        """Compute the logits of E(x), `[B, 1, H, W]`, for images `[B, C, H, W]` in [-1, 1]."""
        if self.calibration is None:
            return self.mask_generator(image)
        features, last = self.mask_generator.forward_features(image), self.mask_generator.last  # type: ignore[operator]
        with torch.no_grad():
            guide = self.mask_discriminator.forward_features(last(features).sigmoid())  # type: ignore[operator]
        return last(features * self.calibration(guide))  # type: ignore[operator]

    def judge_mask(self, mask: Tensor) -> Tensor:
        """Compute the scores of D_z for masks `[B, 1, H, W]` in [0, 1], to which noise is added."""
        noise = sample_rows_like(torch.randn, mask) if self.mask_noise else 0
        return self.mask_discriminator(mask + self.mask_noise * noise)

    def image_of(self, mask: Tensor) -> Tensor:
        """Compute G(z), `[B, C, H, W]` in [-1, 1], for masks `[B, 1, H, W]` in [0, 1]."""
        return self.image_generator(mask).tanh()


class Fakes(NamedTuple):
    """Hold the masks and images that the generators made, with gradient."""

    mask: Tensor
    """z^, `[B, 1, H, W]`, soft."""
    image: Tensor
    """x^, `[B, C, H, W]`."""


def judged_real(score: Tensor) -> Tensor:
    """Average (D - 1)^2, the least-squares loss of scores that should say real."""
    return (score - 1).square().mean()


def judged_false(score: Tensor) -> Tensor:
    """Average D^2, the least-squares loss of scores that should say false."""
    return score.square().mean()


def cycle_term(
    image_again: Tensor, image: Tensor, mask_logits_again: Tensor, mask: Tensor, mask_weight: float
) -> Tensor:
    """Compute |x~ - x|_1 + w_z BCE(z~, z), both means over pixels; z~ is given by its logits."""
    return F.l1_loss(image_again, image) + mask_weight * F.binary_cross_entropy_with_logits(mask_logits_again, mask)


def generator_terms(
    networks: Translation, vae: ShapeVAE | None, image: Tensor, mask: Tensor, mask_cycle_weight: float
) -> tuple[dict[str, Tensor], Fakes]:
    """Compute the terms of L_gen without their weights, with discriminators and VAE held fixed.

    Args:
        networks: E, G and the discriminators.
        vae: has learned masks; needed where there is a D_vae.
        image: x, `[B, C, H, W]` in [-1, 1].
        mask: z, `[B, 1, H, W]` in [0, 1], of structures that are not in the images.
        mask_cycle_weight: w_z.

    Returns:
        `image` (of D_x), `mask` (of D_z), `shape` (of D_vae, where there is one) and `cycle`; and the fakes.
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
    """Compute L_D, summed over the discriminators, without gradient towards the fakes. Arguments: `generator_terms`."""
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
        # One pass for both: the networks treat the samples of a batch alike, and apart.
        of_real, of_false = discriminator(torch.cat([real, false])).chunk(2)
        loss = loss + judged_real(of_real) / 2 + judged_false(of_false) / 2
    return loss
