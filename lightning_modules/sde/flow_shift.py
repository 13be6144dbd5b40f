"""Time shift for flow matching: a time t is replaced with a t / (1 + (a - 1) t).

Times are in [0, 1], where 0 is data and 1 is noise. A shift a > 1 moves times towards noise.

Source: Esser et al., Scaling Rectified Flow Transformers for High-Resolution Image Synthesis, ICML 2024, arXiv
2403.03206, section 5.3.2.
"""

import math
from typing import Any, TypeVar

from torch import Tensor

Time = TypeVar("Time", float, Tensor)


def shift_time(t: Time, shift: float) -> Time:
    """Return the shifted time a t / (1 + (a - 1) t), where a is the argument `shift`."""
    return shift * t / (1 + (shift - 1) * t)


def scheduler_shift(config: Any, positions: int) -> float:
    """Compute the time shift a from the number of image tokens, like `calculate_shift` in diffusers' pipelines.

    Args:
        config: config of a diffusers scheduler for flow matching. With `use_dynamic_shifting`, the shift or its
            logarithm is linear in the number of tokens. Otherwise, the shift is constant.
        positions: number of image tokens in the transformer.
    """
    if not config.get("use_dynamic_shifting"):
        return config.get("shift", config.get("flow_shift"))
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    base, most = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    mu = base + (most - base) * (positions - low) / (high - low)
    return mu if config.get("time_shift_type") == "linear" else math.exp(mu)
