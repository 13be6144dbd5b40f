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

    A point has the patches y u (0 for weak points), y v and noise.
    """

    signals: Tensor
    """u and v, `[2, d]`, orthogonal."""
    strong: Tensor
    """`[n, S]`, floating point: 1 if a point has the strong feature, else 0."""
    noise: Tensor
    """`[n, S, d]`, orthogonal to u and v."""
    target: Tensor
    """y, `[n, S]`, -1 or 1."""


def points_of(features: Tensor, target: Tensor, signals: Tensor) -> PatchPoints:
    """Split rows of a `FeatureNoise` table, `[n, S, 3, d]` and `[n, S]`, into features, noise and targets."""
    return PatchPoints(signals.to(features), features[:, :, 0].any(dim=2).to(target), features[:, :, 2], target)


def output(weight: Tensor, patches: Tensor) -> Tensor:
    """Compute f of each network at points.

    Args:
        weight: filters of F_+ and F_-, `[S, 2, m, d]`.
        patches: `[..., S, P, d]`, or `[..., 1, P, d]` for points common to all networks.

    Returns:
        `[..., S]`.
    """
    positive, negative = torch.einsum("sjrd,...spd->...sjrp", weight, patches).relu().square().sum(-1).unbind(-2)
    return (positive - negative).mean(dim=-1)


def component(weight: Tensor, signal: Tensor) -> Tensor:
    """Compute the contribution of feature v `[d]` in each class, which is y f for the single patch y v, for y = 1 and y
    = -1.
    """
    sign = 1 - 2 * torch.arange(2, dtype=weight.dtype, device=weight.device)[:, None]
    return sign * output(weight, (sign * signal)[:, None, None])


def drawn_order(seed: int, iteration: Tensor, steps: int, size: int, replicas: int) -> Tensor:
    """Sample the points of the coming iterations: each pass visits all points of a network in a new order.

    Args:
        seed: random seed.
        iteration: number of the first iteration, int64; iteration and seed determine the sample.
        steps: T, number of iterations.
        size: n, points per network.
        replicas: S, number of networks.

    Returns:
        `[T, S]`, int64.
    """
    coming = iteration + torch.arange(steps, device=iteration.device)
    passes = iteration // size + torch.arange(steps // size + 2, device=iteration.device)
    which = passes[:, None] * replicas + torch.arange(replicas, device=iteration.device)
    orders = sample_words(seed, 0, which.flatten(), size).argsort(dim=1).view(len(passes), replicas, size)
    return orders[coming // size - passes[0], :, coming % size]


@torch.no_grad()
def descend(weight: Tensor, points: PatchPoints, order: Tensor, rate: float) -> Tensor:
    """Take T SGD steps on (f - y)^2 in place. In each step, each network uses one point of its own training set.

    All patches are multiples of u, v and n noise vectors b_k. SGD therefore only needs the inner products <w, b_k>, and
    updates them with the inner products of the b_k. The final weights are w + sum_k c_k b_k. A filter is represented by
    n + 2 numbers instead of d. The last axis is the network. Many networks therefore take little more time than one.

    Args:
        weight: filters `[S, 2, m, d]`.
        points: training sets.
        order: index of the point of each step, `[T, S]`, int64.
        rate: eta, learning rate.

    Returns:
        y f at the point of each step, before the update, `[T, S]`.
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
    active = torch.zeros_like(product[:3])  # relu <w, x_p>; buffers are reused, because allocation is slow
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
