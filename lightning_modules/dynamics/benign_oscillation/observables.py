"""Observables of patch networks: oscillation, alignment of filters with features, and accuracy by kind of point."""

import torch
from torch import Tensor

from lightning_modules.dynamics.benign_oscillation.patch_network import PatchPoints

INNER_PRODUCTS = ("<w+, u>", "<w+, v>", "-<w-, v>", "<w, noise>")


def oscillation(
    signed: Tensor, strong: Tensor, delta: float, overshot: Tensor, learned: Tensor
) -> tuple[Tensor, Tensor]:
    """Measure the oscillation of y f around 1 at sampled strong points, starting at the first iteration with y f >= 1.

    Args:
        signed: y f of the sampled points in T iterations of S networks, `[T, S]`.
        strong: 1 if a sampled point has the strong feature, and 0 otherwise, `[T, S]`.
        delta: minimum distance between y f and 1 that counts as oscillation.
        overshot: whether y f >= 1 has already occurred for each network, `[S]`.
        learned: whether each network has learned the weak feature, `[S]`; if so, none of its points is counted.

    Returns:
        A tensor `[3, S]` and the updated `overshot`. The tensor contains the number of counted points, the sum of (1 -
        y f)^2 over them, and the number of counted points with |1 - y f| >= delta.
    """
    over = ((signed >= 1) * strong).cumsum(dim=0) > 0
    counted = strong * (over | overshot) * ~learned
    residual = torch.where(counted > 0, 1 - signed, 0)
    far = (residual.abs() >= delta) * counted
    return torch.stack([counted, residual**2, far]).sum(dim=1), overshot | over[-1]


def inner_products(weight: Tensor, points: PatchPoints) -> Tensor:
    """Compute the maxima, `[4, S]`, of <w_+, u>, <w_+, v>, -<w_-, v> and <w, xi> over the filters of each network.

    The maximum of <w, xi> is also taken over both groups of filters and over all noise patches xi of the training set.
    """
    u, v = points.signals
    positive, negative = weight.unbind(dim=1)
    noise = torch.einsum("nsd,sjrd->snjr", points.noise, weight).flatten(1)
    return torch.stack([each.amax(dim=1) for each in (positive @ u, positive @ v, -negative @ v, noise)])


def right_answers(f: Tensor, target: Tensor, strong: Tensor) -> Tensor:
    """Count points and each network's correct predictions: without the strong feature, with this feature, and in total.

    Args:
        f: outputs of S networks, `[B, S]`.
        target: labels y, `[B, 1]`.
        strong: whether a point has the strong feature, `[B]`.

    Returns:
        A tensor `[3, 1 + S]`: the first column contains the numbers of points, and each other column contains the
        numbers of correct predictions of one network.
    """
    kinds = torch.stack([~strong, strong, torch.ones_like(strong)]).to(f.dtype)
    return torch.cat([kinds.sum(dim=1, keepdim=True), kinds @ (f * target > 0).to(f.dtype)], dim=1)
