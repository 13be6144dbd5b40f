"""Loss weights of a diffusion model that depend on the signal-to-noise ratio at the timestep."""

from torch import Tensor

from lightning_modules.sde.discrete import Prediction


def min_snr_weight(abar: Tensor, gamma: float, prediction: Prediction) -> Tensor:
    """Compute the Min-SNR weight w_t, with which the error of the clean image is weighted by min(SNR_t, gamma).

    Args:
        abar: abar_t, of any shape, in (0, 1).
        gamma: upper bound of the weight of the error of the clean image.
        prediction: quantity that the model predicts.
    """
    ratio = abar / (1 - abar)
    clipped = ratio.clamp(max=gamma)
    if prediction == "epsilon":
        return clipped / ratio
    if prediction == "v_prediction":
        return clipped / (ratio + 1)
    return clipped
