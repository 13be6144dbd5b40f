"""Mean of predicted probabilities, computed in log space to avoid underflow."""

import math

from torch import Tensor

from lightning_modules.full_precision import at_least_float32


def log_mean(log_probability: Tensor) -> Tensor:
    """Compute the logarithm of the mean of m predicted probabilities, which are given as log-probabilities.

    The log-probabilities have the shape `[m, B, K]`, and the result has the shape `[B, K]`.
    """
    return log_probability.logsumexp(dim=0) - math.log(len(log_probability))


def log_mean_softmax(logits: Tensor) -> Tensor:
    """Compute the logarithm of the mean softmax over m sets of logits, in float32 or a higher precision.

    The logits have the shape `[m, B, K]`, and the result has the shape `[B, K]`.
    """
    return log_mean(at_least_float32(logits).log_softmax(dim=-1))
