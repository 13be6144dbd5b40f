"""Conditional sampling: inpainting of unknown pixels, colourisation of grey images, and class guidance."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightning_modules.backbones.diffusion.text_to_image import saving_what_is_trained
from lightning_modules.sde.processes import Process, along
from lightning_modules.sde.samplers import Draw, Moved, Project, Score, times_of

COLOURS = torch.tensor(
    [
        [1 / math.sqrt(3), -2 / math.sqrt(6), 0.0],
        [1 / math.sqrt(3), 1 / math.sqrt(6), 1 / math.sqrt(2)],
        [1 / math.sqrt(3), 1 / math.sqrt(6), -1 / math.sqrt(2)],
    ],
    dtype=torch.float64,
    device="cpu",
)
"""Orthonormal colour matrix M. Up to a factor of sqrt(3), the first channel of x M is the grey value."""


def inpainting(process: Process, known: Tensor, mask: Tensor, draw: Draw) -> Project:
    """Return a function that diffuses known data to the time of a step, and inserts them where a mask is 1.

    Args:
        process: diffusion process.
        known: known data, `[B, C, H, W]`.
        mask: binary mask, which must be broadcastable to the shape of the data.
        draw: function that samples standard normal noise with the shape of its argument.
    """

    def project(moved: Moved, t: float) -> Moved:
        mean, deviation = process.kernel(known, times_of(known, t))
        noised = mean + along(deviation, known) * draw(known)
        return Moved(torch.where(mask > 0, noised, moved.x), torch.where(mask > 0, mean, moved.mean))

    return project


def rotate_colours(image: Tensor) -> Tensor:
    """Rotate the colour space of images, `[B, 3, H, W]`, so that the first channel is the grey value."""
    return torch.einsum("bihw,ij->bjhw", image, COLOURS.to(image))


def rotated_back(image: Tensor) -> Tensor:
    """Apply the inverse of `rotate_colours`."""
    return torch.einsum("bihw,ji->bjhw", image, COLOURS.to(image))


def colourisation(process: Process, known: Tensor, draw: Draw) -> Project:
    """Return a function that diffuses the grey values of known images to the time of a step, and inserts them.

    The argument `known` contains the images, `[B, 3, H, W]`.
    """
    grey = torch.zeros_like(known)
    grey[:, 0] = 1
    inside = inpainting(process, rotate_colours(known), grey, draw)

    def project(moved: Moved, t: float) -> Moved:
        return Moved(*map(rotated_back, inside(Moved(*map(rotate_colours, moved)), t)))

    return project


class ClassGuidance(nn.Module):
    """Guide a score model towards classes by the gradient of a noise-conditional classifier.

        s(x, t) + scale grad_x log p(y | x, std(t))

    Args:
        classifier: network that computes logits, `[B, K]`, from x_t, `[B, C, H, W]`, and the standard deviations of the
            noise, `[B]`, such as the network of a `NoiseConditionalClassifier`. The classifier is frozen, and is not
            saved in checkpoints.
        num_classes: number of classes, K.
        scale: guidance scale; the paper uses 1.
    """

    def __init__(self, classifier: nn.Module, num_classes: int, scale: float = 1.0) -> None:
        super().__init__()
        self.classifier = classifier.requires_grad_(False).eval()
        saving_what_is_trained(self)
        self.num_classes = num_classes
        self.scale = scale

    def guided_score(self, score: Score, process: Process, label: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the score function of p_t(x | y) for the labels y, `[B]`."""

        def conditional(x: Tensor, t: Tensor) -> Tensor:
            with torch.inference_mode(False), torch.enable_grad():
                inside = x.detach().clone().requires_grad_()
                logits = self.classifier(inside, process.kernel(inside, t)[1].detach().clone())
                log_probability = logits.log_softmax(dim=1).gather(1, label.clone()[:, None]).sum()
                [gradient] = torch.autograd.grad(log_probability, inside)
            return score(x, t) + self.scale * gradient

        return conditional
