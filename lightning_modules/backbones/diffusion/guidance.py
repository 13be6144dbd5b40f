"""Classifier-free guidance moves the prediction for a prompt away from the prediction for a (usually empty) text.

    e = e_u + w (e_c - e_u)

Source: Ho and Salimans, Classifier-Free Diffusion Guidance, arXiv 2207.12598.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_modules.backbones.diffusion.text_encoders import Prompts, concatenated


def guided(
    model: Callable[..., Tensor], prompts: Prompts | None, negative: Prompts | None, scale: float
) -> Callable[[Tensor, Tensor], Tensor]:
    """Wrap a text-conditional model as a function of x_t and t alone.

    Args:
        model: function of x_t, t and prompts.
        prompts: B prompts of the conditional prediction e_c; None for a model without texts.
        negative: B negative prompts of the prediction e_u; unused if `scale` is 1; None for a model without texts.
        scale: w, guidance scale; with 1, only `prompts` are evaluated.
    """
    if prompts is None or negative is None or scale == 1:
        return lambda x, t: model(x, t, prompts)
    both = concatenated([negative, prompts])

    def prediction(x: Tensor, t: Tensor) -> Tensor:
        without, given = model(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        return without + scale * (given - without)

    return prediction
