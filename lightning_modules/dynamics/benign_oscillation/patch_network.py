"""Patch networks and SGD with batch size 1, vectorised over many networks.

f(x) = F_+ - F_-,    F_j(x) = (1/m) sum_r sum_p relu(<w_jr, x_p>)^2,
w_jr <- w_jr - eta (4 j / m) (f - y) sum_p relu(<w_jr, x_p>) x_p
"""

from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.randomness.counter import sample_words


class PatchPoints(NamedTuple):
    """Training sets of S networks, with n points each.

    Each point has three patches: y u (or 0 for points without the strong feature), y v, and noise.
    """

    signals: Tensor
    """Features u and v, which are orthogonal, `[2, d]`."""
    strong: Tensor
    """1 if a point has the strong feature, and 0 otherwise, `[n, S]`, floating point."""
    noise: Tensor
    """Noise patches, which are orthogonal to u and v, `[n, S, d]`."""
    target: Tensor
    """Labels y in {-1, 1}, `[n, S]`."""


def points_of(features: Tensor, target: Tensor, signals: Tensor) -> PatchPoints:
    """Convert rows of a `FeatureNoise` table, `[n, S, 3, d]` and `[n, S]`, to patch points."""
    return PatchPoints(signals.to(features), features[:, :, 0].any(dim=2).to(target), features[:, :, 2], target)


def output(weight: Tensor, patches: Tensor) -> Tensor:
    """Compute the output f of each network for given points.

    Args:
        weight: filters of F_+ and F_-, `[S, 2, m, d]`.
        patches: patches of points: `[..., S, P, d]` if each network has its own points, or `[..., 1, P, d]` if all
            networks share the points.

    Returns:
        The outputs, `[..., S]`.
    """
    positive, negative = torch.einsum("sjrd,...spd->...sjrp", weight, patches).relu().square().sum(-1).unbind(-2)
    return (positive - negative).mean(dim=-1)


def component(weight: Tensor, signal: Tensor) -> Tensor:
    """Compute feature v's contribution to y f in each class: y f of the single patch y v, for y = 1 and y = -1."""
    sign = 1 - 2 * torch.arange(2, dtype=weight.dtype, device=weight.device)[:, None]
    return sign * output(weight, (sign * signal)[:, None, None])


def drawn_order(seed: int, iteration: Tensor, steps: int, size: int, replicas: int) -> Tensor:
    """Sample the points for the next iterations; each pass visits all points of a network in a new random order.

    Args:
        seed: random seed.
        iteration: index of the first iteration, int64; iteration and seed determine the sampled points.
        steps: number T of iterations.
        size: number n of points of each network.
        replicas: number S of networks.

    Returns:
        The indices of the points, `[T, S]`, int64.
    """
    coming = iteration + torch.arange(steps, device=iteration.device)
    passes = iteration // size + torch.arange(steps // size + 2, device=iteration.device)
    which = passes[:, None] * replicas + torch.arange(replicas, device=iteration.device)
    orders = sample_words(seed, 0, which.flatten(), size).argsort(dim=1).view(len(passes), replicas, size)
    return orders[coming // size - passes[0], :, coming % size]


@torch.no_grad()
def descend_patches(weight: Tensor, points: PatchPoints, order: Tensor, rate: float) -> Tensor:
    """Take T SGD steps on (f - y)^2 in place; in each step, each network uses one point of its own training set.

    All patches are multiples of n + 2 vectors b_k: u, v and the n noise patches. SGD therefore only needs the inner
    products <w, b_k>, which it updates with the inner products between the vectors b_k. During the steps, a filter is
    represented by these n + 2 inner products instead of its d weights. The final weights are w + sum_k c_k b_k. The
    last axis of all tensors indexes the networks, so training many networks takes little more time than training one.

    Args:
        weight: filters of F_+ and F_-, `[S, 2, m, d]`, updated in place.
        points: training sets of the networks.
        order: index of the point that each network uses in each step, `[T, S]`, int64.
        rate: learning rate eta.

    Returns:
        The values y f of the points in `order`, `[T, S]`, each computed before the update of its step.
    """
    S, filters = weight.shape[0], weight.shape[2]
    network = torch.arange(S, device=order.device)
    basis = torch.cat([points.signals[:, None].expand(-1, S, -1), points.noise])  # [n + 2, S, d]
    product = torch.einsum("ksd,sjrd->kjrs", basis, weight).flatten(1, 2).contiguous()  # [n + 2, 2m, S]
    group = weight.new_full((2 * filters, 1), 1 / filters)
    group[filters:] *= -1  # j / m
    y, strong = points.target[order, network], points.strong[order, network]
    signs = torch.stack([y * strong, y], dim=1)[:, :, None]  # coefficients of u and v in the patches, [T, 2, 1, S]
    squares = signs * points.signals.square().sum(dim=1).view(2, 1, 1)
    gram = torch.einsum("ksd,lsd->kls", points.noise, points.noise).contiguous()
    gram = gram.gather(0, order[:, None].expand(-1, len(gram), -1))[:, :, None]  # sampled x all points, [T, n, 1, S]
    drawn = order[:, None, None].expand(-1, 1, 2 * filters, -1)
    total = torch.zeros_like(product)
    active = torch.zeros_like(product[:3])  # relu(<w, x_p>); buffers are reused, because allocation is slow
    change, terms = torch.empty_like(active), torch.empty_like(active)
    (active_signals, active_noise), (change_signals, change_noise), (of_signals, of_noise), (to_signals, to_noise) = (
        (each[:2], each[2:]) for each in (active, change, product, total)
    )
    outputs = []
    parts = (each.unbind(0) for each in (y, signs, squares, gram, drawn))
    for label, sign, square, with_noise, place in zip(*parts, strict=True):
        torch.mul(of_signals, sign, out=active_signals)
        torch.gather(of_noise, 0, place, out=active_noise)
        torch.mul(active.relu_(), group, out=change)
        f = torch.mul(change, active, out=terms).sum(dim=(0, 1))
        change *= label - f
        of_signals.addcmul_(change_signals, square, value=4 * rate)
        of_noise.addcmul_(change_noise, with_noise, value=4 * rate)
        to_signals.addcmul_(change_signals, sign)
        to_noise.scatter_add_(0, place, change_noise)
        outputs.append(f)
    weight += 4 * rate * torch.einsum("kis,ksd->sid", total, basis).view_as(weight)
    return y * torch.stack(outputs)
