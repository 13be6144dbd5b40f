"""Sines and cosines of a time or a noise level, as in the position encoding of transformers.

    c(t) = [cos(w_1 t), ..., cos(w_n t), sin(w_1 t), ..., sin(w_n t)],   w_i = 10000^{-(i - 1) / n}

Source: Vaswani et al., Attention Is All You Need, NeurIPS 2017, arXiv 1706.03762. Here, the cosines come first.
"""

import math

import torch
from torch import Tensor


def sinusoidal_embedding(time: Tensor, num_features: int) -> Tensor:
    """Compute c(t) in single precision or better, because half precision cannot distinguish large times.

    Args:
        time: `[B]`.
        num_features: number of sines and cosines in total, 2 n.

    Returns:
        `[B, num_features]`.
    """
    half = num_features // 2
    dtype = torch.promote_types(time.dtype, torch.float32)
    frequency = torch.exp(torch.arange(half, device=time.device, dtype=dtype) * (-math.log(10000) / half))
    angle = time.to(dtype)[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=1)
