"""Terms of ScoreDVI's negative evidence lower bound. Tensors are `[1, K, C, H, W]`: K components, C channels.

Likelihood and prior of each value: y ~ N(x_z, 1 / phi_z), z ~ Cat(w), w ~ Dir(1), phi_k ~ Gamma(alpha_0, rate beta_0).
Variational posterior: x_k ~ N(mu_k, sigma_k^2), phi_k ~ Gamma(alpha_k, beta_k), z ~ Cat(rho), w ~ Dir(d). In the terms
below, means are over channels and pixels, and sums are over k:

    rec  = -mean sum rho [ (psi(alpha) - log beta) / 2 - ((mu - y)^2 + sigma^2) alpha / (2 beta) ]
    phi  = mean sum rho KL(Gamma(alpha, beta) || Gamma(alpha_0, beta_0))
    z    = mean sum rho [ log(rho + 1e-8) - (psi(d) - psi(sum d)) ]
    w    = mean KL(Dir(d) || Dir(1))
    x    = mean sum rho [ -log sigma^2 / 2 - mean_m T(mu + sigma e_m) ]

T is the identity in the forward pass. In the backward pass, T multiplies the gradient by the score of clean images,
(D_k(x) - x) / sigma_k^2, where D_k is a blind denoiser. The value of the last term is therefore not a divergence. As in
the authors' code, rho receives a gradient from this value.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def reconstruction(y: Tensor, mu: Tensor, variance: Tensor, log_alpha: Tensor, log_beta: Tensor, rho: Tensor) -> Tensor:
    """Compute, up to a constant, the expected negative log-likelihood of the noisy image y, `[1, 1, C, H, W]`."""
    precision = (log_alpha - log_beta).exp()
    likelihood = log_alpha.exp().digamma() - log_beta - ((mu - y).square() + variance) * precision
    return -(0.5 * likelihood * rho).sum(dim=1).mean()


def divergence_of_precision(log_alpha: Tensor, log_beta: Tensor, rho: Tensor, alpha: float, beta: float) -> Tensor:
    """Compute the KL divergence of the precisions' posterior from their prior Gamma(alpha, rate beta)."""
    a, prior = log_alpha.exp(), log_alpha.new_tensor([alpha, beta])
    divergence = (
        (a - alpha) * a.digamma()
        + prior[0].lgamma()
        - a.lgamma()
        + alpha * (log_beta - prior[1].log())
        + beta * (log_alpha - log_beta).exp()
        - a
    )
    return (divergence * rho).sum(dim=1).mean()


def expected_log_weight(d: Tensor) -> Tensor:
    """Compute E[log w] under Dir(d)."""
    return d.digamma() - d.sum(dim=1, keepdim=True).digamma()


def divergence_of_component(rho: Tensor, d: Tensor) -> Tensor:
    """Compute the KL divergence of Cat(rho) from Cat(w), in expectation over the weights' posterior Dir(d)."""
    return (rho * ((rho + 1e-8).log() - expected_log_weight(d))).sum(dim=1).mean()


def divergence_of_weight(d: Tensor) -> Tensor:
    """Compute the KL divergence of Dir(d) from the uniform Dirichlet distribution."""
    number = d.new_tensor(float(d.shape[1]))
    norm = d.sum(dim=1).lgamma() - d.lgamma().sum(dim=1) - number.lgamma()
    return norm.mean() + ((d - 1) * expected_log_weight(d)).sum(dim=1).mean()


def with_score(x: Tensor, score: Tensor) -> Tensor:
    """Apply T: return x unchanged in the forward pass, and multiply the gradient by the score in the backward pass."""
    return x.detach() + (x - x.detach()) * score.detach()


def prior_term(
    mu: Tensor, log_variance: Tensor, rho: Tensor, normal: Tensor, denoisers: Sequence[nn.Module], chunk: int
) -> Tensor:
    """Compute the term `x` for the prior of the clean image.

    Args:
        mu: `[1, K, C, H, W]`.
        log_variance: log sigma^2, of the same shape as `mu`.
        rho: mixture weights rho, of the same shape as `mu`.
        normal: standard normal noise e, `[M, K, C, H, W]`.
        denoisers: K denoisers of images `[B, C, H, W]`.
        chunk: number of the M noise samples that a denoiser processes at once.
    """
    variance = log_variance.exp()
    sample = mu + variance.sqrt() * normal
    with torch.no_grad():
        clean = torch.stack(
            [torch.cat([denoiser(part) for part in sample[:, k].split(chunk)]) for k, denoiser in enumerate(denoisers)],
            dim=1,
        )
        score = (clean - sample) / variance
    value = with_score(sample, score).mean(dim=0, keepdim=True)
    return ((-0.5 * log_variance - value) * rho).sum(dim=1).mean()
