"""Observables of patch networks: oscillation, alignment of filters, and accuracy by kind of point."""

import torch
from torch import Tensor

from lightning_modules.dynamics.benign_oscillation.patch_network import PatchPoints

INNER_PRODUCTS = ("<w+, u>", "<w+, v>", "-<w-, v>", "<w, noise>")


def oscillation(
    signed: Tensor, strong: Tensor, delta: float, overshot: Tensor, learned: Tensor
) -> tuple[Tensor, Tensor]:
    """Count sampled strong points from the first y f >= 1 on, and measure the distance of y f from 1.

    Args:
        signed: y f of the sampled points, `[T, S]`.
        strong: 1 if a sampled point has the strong feature, else 0, `[T, S]`.
        delta: smallest distance of y f from 1 that counts as oscillation.
        overshot: whether y f >= 1 has occurred before, `[S]`.
        learned: whether the weak feature is learned, `[S]`; nothing is counted for these networks.

    Returns:
        A tensor `[3, S]` with the number of points, the sum of (1 - y f)^2, and the number of points with |1 - y f| >=
        delta; and the updated `overshot`.
    """
    over = ((signed >= 1) * strong).cumsum(dim=0) > 0
    counted = strong * (over | overshot) * ~learned
    residual = torch.where(counted > 0, 1 - signed, 0)
    far = (residual.abs() >= delta) * counted
    return torch.stack([counted, residual**2, far]).sum(dim=1), overshot | over[-1]


def inner_products(weight: Tensor, points: PatchPoints) -> Tensor:
    """Compute the largest <w_+, u>, <w_+, v>, -<w_-, v> and <w, xi> over the filters of each network, `[4, S]`."""
    u, v = points.signals
    positive, negative = weight.unbind(dim=1)
    noise = torch.einsum("nsd,sjrd->snjr", points.noise, weight).flatten(1)
    return torch.stack([each.amax(dim=1) for each in (positive @ u, positive @ v, -negative @ v, noise)])


def right_answers(f: Tensor, target: Tensor, strong: Tensor) -> Tensor:
    """Count weak points, strong points and all points, and the correct predictions of each network among them.

    Args:
        f: outputs, `[B, S]`.
        target: y, `[B, 1]`.
        strong: whether a point has the strong feature, `[B]`.

    Returns:
        `[3, 1 + S]`: the number of points, then the correct predictions of each network.
    """
    kinds = torch.stack([~strong, strong, torch.ones_like(strong)]).to(f.dtype)
    return torch.cat([kinds.sum(dim=1, keepdim=True), kinds @ (f * target > 0).to(f.dtype)], dim=1)
