"""Estimates that follow a moving quantity by noisy samples, and the sets that they are kept in."""

import torch
from torch import Tensor

SLACK = 1e-6
"""Part by which an eigenvalue may fall short of its bound."""


def msvr(tracked: Tensor, now: Tensor, before: Tensor, alpha: float, gamma: float) -> Tensor:
    """Follow the quantities of sampled blocks: (1 - alpha) e + alpha h + gamma (h - h').

    Args:
        tracked: e, `[I, ...]`.
        now: h at this iterate, of a batch.
        before: h' at the iterate before, of the same batch.
        alpha: weight of the sample, in (0, 1].
        gamma: weight of the change; with 1 - alpha it is STORM's.
    """
    return (1 - alpha) * tracked + (alpha + gamma) * now - gamma * before


def storm(tracked: Tensor, now: Tensor, before: Tensor, beta: float) -> Tensor:
    """Follow one quantity: (1 - beta) (z - G') + G, with G and G' of the same batch at this iterate and the last."""
    return (1 - beta) * (tracked - before) + now


def with_eigenvalues_above(matrix: Tensor, least: float) -> Tensor:
    """Project square matrices `[k, D, D]` onto the symmetric ones whose eigenvalues are at least a number.

    A millionth of the number is forgiven: a matrix that has a Cholesky factor then needs no eigenvalues, which take
    ten times as long.
    """
    symmetric = (matrix + matrix.mT) / 2
    lowered = symmetric - (1 - SLACK) * least * torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    outside = torch.linalg.cholesky_ex(lowered)[1].nonzero()[:, 0]
    if len(outside):
        values, vectors = torch.linalg.eigh(symmetric[outside])
        symmetric[outside] = (vectors * values.clamp(min=least)[:, None]) @ vectors.mT
    return symmetric


def in_ball(vector: Tensor, radius: float) -> Tensor:
    """Project vectors `[k, D]` onto the ball of a radius around 0."""
    return vector * (radius / vector.norm(dim=1, keepdim=True).clamp(min=radius))
