"""Synthetic height fields with exact normals.

The light direction cannot be inferred from the image alone.

    h(x, y) = sum_k a_k exp(-|p - c_k|^2 / (2 s_k^2)) + g |u p - o|,   n = (-dh/dx, -dh/dy, 1) / |.|,
    image = (1 - a) shade(n) + a shade(n') + noise,   shade(n) = max(0, n l) + g max(0, n m)^32,  m = (l + v) / |.|

By default, a surface has four bumps and one sharp crease. Bump k has height a_k, centre c_k and width s_k. In h, the
crease is the line u p = o, and g is its slope. In shade, g is the gloss. The point p = (x, y) is in [-1, 1]^2, with x
to the right and y up. The light direction l of each image is a random unit vector, drawn around a mean direction from
the upper left. Many different surfaces can therefore produce the same image. Glossy surfaces have highlights (Blinn
1977). Here v = (0, 0, 1) is the direction to the viewer. Through a surface of transparency a, a second surface with
normals n' is visible.
"""

import math

import numpy as np
import torch
from torch import Tensor

from datamodules.arguments import at_least, positive, within
from datamodules.normals.normal_set import NormalSet, NormalsInMemory, Split
from datamodules.randomness.counter import sample_uniform

BUMPS = 4
LIGHT = (-0.4, 0.5, 1.0)
LIGHT_SPREAD = 0.4
"""Standard deviation of the components of the light direction, before normalisation."""
HIGHLIGHT = 32
"""Exponent of the highlights in the shading equation."""
STREAMS = {"training": 0, "validation": 1, "test": 2}


def surface_normals(uniform: Tensor, size: int) -> Tensor:
    """Compute the normals of random height fields.

    Args:
        uniform: uniform numbers in [0, 1), `[B, 4 bumps + 3]`: four for each bump and three for the crease.
        size: height and width S of the images, in pixels.

    Returns:
        Unit normals `[B, 3, S, S]`.
    """
    bumps, crease = uniform[:, :-3].unflatten(1, (-1, 4)), uniform[:, -3:]
    place = (torch.arange(size, dtype=uniform.dtype) + 0.5) * 2 / size - 1
    x, y = place.expand(size, size), -place[:, None].expand(size, size)
    column, row, height, width = (part[:, :, None, None] for part in bumps.unbind(dim=2))
    column, row, height, width = 2 * column - 1, 2 * row - 1, 1.6 * height - 0.8, 0.25 + 0.35 * width
    bump = height * torch.exp(-((x - column) ** 2 + (y - row) ** 2) / (2 * width**2))
    angle, offset, slope = (part[:, None, None] for part in crease.unbind(dim=1))
    across, up = torch.cos(2 * math.pi * angle), torch.sin(2 * math.pi * angle)
    side = torch.sign(across * x + up * y - (offset - 0.5)) * (0.3 + 0.7 * slope)
    dx = (-(x - column) / width**2 * bump).sum(dim=1) + across * side
    dy = (-(y - row) / width**2 * bump).sum(dim=1) + up * side
    normal = torch.stack([-dx, -dy, torch.ones_like(dx)], dim=1)
    return normal / normal.norm(dim=1, keepdim=True)


def lit(normal: Tensor, direction: Tensor) -> Tensor:
    """Return max(0, n d) `[B, 1, H, W]` for normals n `[B, 3, H, W]` and one direction d per image, `[B, 3]`."""
    return (normal * direction[:, :, None, None]).sum(dim=1, keepdim=True).clamp(min=0)


class HeightFields(NormalSet):
    """Dataset of small synthetic surfaces under unknown light, with exact normals. It needs no download.

    Args:
        num_training: number of training images.
        num_validation: number of validation images.
        num_test: number of test images.
        image_size: height and width, in pixels.
        noise: standard deviation of the image noise, for images in [0, 1].
        bumps: number of bumps of a surface. Use many bumps for crowded scenes.
        gloss: g, brightness of highlights. 0 means matte surfaces.
        transparency: a, fraction of the light that comes from a second surface behind the first.
        seed: seed of the surfaces, the light directions and the noise.
    """

    def __init__(
        self,
        num_training: int = 4000,
        num_validation: int = 100,
        num_test: int = 200,
        image_size: int = 16,
        noise: float = 0.03,
        bumps: int = BUMPS,
        gloss: float = 0.0,
        transparency: float = 0.0,
        seed: int = 0,
    ) -> None:
        at_least(1, num_training=num_training, num_validation=num_validation, num_test=num_test)
        at_least(2, image_size=image_size)
        at_least(1, bumps=bumps)
        at_least(0, gloss=gloss)
        positive(noise=noise)
        within(0, 1, "[)", transparency=transparency)
        self.counts = {"training": num_training, "validation": num_validation, "test": num_test}
        self.image_size = image_size
        self.noise = noise
        self.bumps = bumps
        self.gloss = gloss
        self.transparency = transparency
        self.seed = seed

    def source(self, split: Split) -> NormalsInMemory:
        index = torch.arange(self.counts[split])
        uniform = sample_uniform(self.seed, STREAMS[split], index, 4 * self.bumps + 3)
        normal = surface_normals(uniform, self.image_size)
        random = np.random.default_rng([self.seed, STREAMS[split]])
        light = torch.from_numpy(LIGHT + LIGHT_SPREAD * random.standard_normal((len(index), 3))).float()
        light = light / light.norm(dim=1, keepdim=True)
        shade = lit(normal, light)
        if self.gloss > 0:
            half = light + torch.tensor([0.0, 0.0, 1.0])
            shade = shade + self.gloss * lit(normal, half / half.norm(dim=1, keepdim=True)) ** HIGHLIGHT
        if self.transparency > 0:
            shade = (1 - self.transparency) * shade + self.transparency * shade.roll(1, dims=0)
        noise = torch.from_numpy(random.standard_normal(tuple(shade.shape))).float()
        image = (shade + self.noise * noise).clamp(0, 1).expand(-1, 3, -1, -1)
        names = [f"{position:05d}" for position in index.tolist()]
        return NormalsInMemory((image * 255).round().byte().numpy(), normal.numpy(), names)
