from functools import partial

import torch
from torch import Tensor, nn

from lightning_modules.diffusion.score_sde.conditions import (
    COLOURS,
    ClassGuidance,
    colourisation,
    inpainting,
    rotate_colours,
    rotated_back,
)
from lightning_modules.sde.processes import VE
from lightning_modules.sde.samplers import PredictorCorrector
from tests.sde.exact import mixture_score

PROCESS = VE(0.01, 10.0)
SAMPLER = PredictorCorrector(num_steps=40)


def drawing(seed: int):
    generator = torch.Generator().manual_seed(seed)
    return lambda like: torch.randn(like.shape, generator=generator, dtype=like.dtype)


def sampled(points: Tensor, n: int, project: object = None) -> Tensor:
    draw = drawing(0)
    start = 10 * draw(torch.empty(n, *points.shape[1:], dtype=torch.float64))
    return SAMPLER(mixture_score(PROCESS, points), start, PROCESS, draw, project)  # type: ignore[arg-type]


def points(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def test_what_is_known_everywhere_is_returned_and_nowhere_changes_nothing() -> None:
    images, known = points(4, 1, 3, 3), points(2, 1, 3, 3)
    everywhere = inpainting(PROCESS, known, torch.ones_like(known), drawing(1))
    torch.testing.assert_close(sampled(images, 2, everywhere), known)
    nowhere = inpainting(PROCESS, known, torch.zeros_like(known), drawing(1))
    assert torch.equal(sampled(images, 2, nowhere), sampled(images, 2))


def test_a_known_half_leads_to_the_image_that_has_it() -> None:
    images = points(5, 1, 4, 4).round()
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    mask[..., :2, :] = 1
    found = sampled(images, 5, inpainting(PROCESS, images, mask, drawing(1)))
    torch.testing.assert_close(found, images, rtol=0, atol=0.05)


def test_colours_are_rotated_to_grey_and_two_others() -> None:
    torch.testing.assert_close(COLOURS @ COLOURS.T, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-12)
    image = points(2, 3, 4, 4)
    torch.testing.assert_close(rotate_colours(image)[:, 0], image.mean(dim=1) * 3**0.5)
    torch.testing.assert_close(rotated_back(rotate_colours(image)), image)


def test_grey_values_are_kept_and_lead_to_the_colours_that_have_them() -> None:
    images = 0.3 * points(5, 3, 3, 3) + torch.linspace(0, 0.7, 5, dtype=torch.float64).view(-1, 1, 1, 1)
    grey = images.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    found = sampled(images, 5, colourisation(PROCESS, grey, drawing(1)))
    torch.testing.assert_close(found.mean(dim=1), images.mean(dim=1), rtol=0, atol=0.05)
    torch.testing.assert_close(found, images, rtol=0, atol=0.1)


class Nearest(nn.Module):
    """The exact classifier that tells noisy copies of two sets of images apart."""

    def __init__(self, first: Tensor, second: Tensor) -> None:
        super().__init__()
        self.sets = (first, second)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        logits = [
            (-(x[:, None] - points).flatten(2).square().sum(dim=2) / (2 * sigma[:, None] ** 2)).logsumexp(dim=1)
            for points in self.sets
        ]
        return torch.stack(logits, dim=1)


def test_a_classifier_leads_to_its_classes() -> None:
    images = points(6, 1, 3, 3)
    guidance = ClassGuidance(Nearest(images[:3], images[3:]), num_classes=2)
    label = torch.arange(20) % 2
    score = guidance.guided_score(mixture_score(PROCESS, images), PROCESS, label)
    draw = drawing(0)
    with torch.inference_mode():
        start = 10 * draw(torch.empty(20, 1, 3, 3, dtype=torch.float64))
        found = SAMPLER(score, start, PROCESS, draw)
    nearest = torch.cdist(found.flatten(1), images.flatten(1)).argmin(dim=1)
    assert torch.equal(nearest // 3, label)


def test_guidance_adds_the_classifiers_gradient() -> None:
    images, x, t = points(6, 1, 2, 2), points(2, 1, 2, 2), torch.tensor([0.5, 0.6], dtype=torch.float64)
    score = mixture_score(PROCESS, images)
    own = mixture_score(PROCESS, images[3:])
    guided = ClassGuidance(Nearest(images[:3], images[3:]), 2).guided_score(score, PROCESS, torch.tensor([1, 1]))
    torch.testing.assert_close(guided(x, t), own(x, t))  # Bayes' rule
    doubled = partial(ClassGuidance(Nearest(images[:3], images[3:]), 2, scale=2.0).guided_score, score, PROCESS)
    torch.testing.assert_close(doubled(torch.tensor([1, 1]))(x, t), 2 * own(x, t) - score(x, t))
