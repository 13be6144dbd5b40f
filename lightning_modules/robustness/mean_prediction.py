"""Average predictions in logarithms, where nothing underflows."""

import math

from torch import Tensor

from lightning_modules.full_precision import at_least_float32


def log_mean(log_probability: Tensor) -> Tensor:
    """Take the logarithm of the mean over m: `[m, B, K]` to `[B, K]`."""
    return log_probability.logsumexp(dim=0) - math.log(len(log_probability))


def log_mean_softmax(logits: Tensor) -> Tensor:
    """Take the logarithm of the mean over m of softmax: `[m, B, K]` to `[B, K]`, in float32 or better."""
    return log_mean(at_least_float32(logits).log_softmax(dim=-1))
