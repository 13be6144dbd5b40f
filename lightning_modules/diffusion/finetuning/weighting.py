"""Loss weights for diffusion models, which depend on the signal-to-noise ratio at the timestep or on the dataset."""

from torch import Tensor

from datamodules.batches import CaptionedImageBatch
from lightning_modules.sde.discrete import Prediction


def min_snr_weight(abar: Tensor, gamma: float, prediction: Prediction) -> Tensor:
    """Compute the Min-SNR weight w_t, which gives the error of the estimated clean image the weight min(SNR_t, gamma).

    Args:
        abar: values of abar_t in (0, 1), of any shape.
        gamma: upper bound of the weight of the estimated clean image's error.
        prediction: quantity that the model predicts.
    """
    ratio = abar / (1 - abar)
    clipped = ratio.clamp(max=gamma)
    if prediction == "epsilon":
        return clipped / ratio
    if prediction == "v_prediction":
        return clipped / (ratio + 1)
    return clipped


def mean_over_images(loss: Tensor, batch: CaptionedImageBatch) -> Tensor:
    """Compute the mean of w_i l_i over a batch of images with losses l, `[B]`; w are the weights of their datasets."""
    weight = batch.get("image_weight")
    return loss.mean() if weight is None else (weight.to(loss) * loss).mean()
