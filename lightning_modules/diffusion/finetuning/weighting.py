"""Weigh the times of a diffusion model's loss by their signal-to-noise ratio."""

from torch import Tensor

from lightning_modules.sde.discrete import Prediction


def min_snr_weight(abar: Tensor, gamma: float, prediction: Prediction) -> Tensor:
    """Compute w_t, by which the error of the image itself counts min(SNR_t, gamma).

    Args:
        abar: abar_t, of any shape, in (0, 1).
        gamma: the largest weight of the image's error.
        prediction: quantity that the model predicts.
    """
    ratio = abar / (1 - abar)
    clipped = ratio.clamp(max=gamma)
    if prediction == "epsilon":
        return clipped / ratio
    if prediction == "v_prediction":
        return clipped / (ratio + 1)
    return clipped
