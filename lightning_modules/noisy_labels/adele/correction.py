"""Settings of ADELE's two ways to correct labels: from predictions of the training pass, or of a pass of its own."""

from collections.abc import Sequence


class TrainingPassCorrection:
    """The merge rule, as for SegTHOR: on what was predicted for each image when the epoch trained on it.

    Corrections accumulate: the new labels are corrected further. A category is corrected once in each stretch of
    `every_n_epochs` epochs, at the first one whose test says that its early learning has ended; a stretch begins where
    `every_n_epochs` divides the number of the epoch, counted from 1. Training images must be of one size and neither
    cropped nor mirrored.

    From each image's step to the end of the epoch, two bytes for each pixel are kept on the host by the process that
    trained on it: 7,000 slices of 256 x 256 pixels take 0.9 GB over all processes. A checkpoint that is written within
    an epoch holds them, too.

    Args:
        foreground_threshold: tau_fg, in [0, 1]; the probability of a foreground category must exceed it, or
        background_threshold: tau_bg, in [0, 1]; that of the background this.
        every_n_epochs: length of a stretch, in epochs; None corrects after every epoch, from the end of a category's
            early learning on.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        foreground_threshold: float = 0.7,
        background_threshold: float = 0.7,
        every_n_epochs: int | None = 10,
    ) -> None:
        _check_probability("foreground_threshold", foreground_threshold)
        _check_probability("background_threshold", background_threshold)
        if every_n_epochs is not None and every_n_epochs < 1:
            raise ValueError(f"every_n_epochs must be at least 1, got {every_n_epochs}")
        self.foreground_threshold = foreground_threshold
        self.background_threshold = background_threshold
        self.every_n_epochs = every_n_epochs


class EvaluationPassCorrection:
    """The update rule, as for PASCAL VOC: on predictions in evaluation mode, after every epoch from the first end of a
    category's early learning on.

    Corrections do not accumulate: each starts from the labels that were given. The probabilities are
    softmax(mean over scales of the logits / temperature). The authors also refine them by a dense CRF from epoch
    `flip_from_epoch` on, which is left out here. Their code says that it makes no significant difference when CRF and
    mirror images begin, and not what the CRF itself does; the command of their README has both.

    Args:
        threshold: tau, in [0, 1]; the largest probability must exceed it.
        scales: of the image.
        temperature: undoes the weight of the logits in the cross-entropy: the number of scales in training.
        flip_from_epoch: from this epoch on, counted from 0, mirror images are predicted, too; None never does.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        threshold: float = 0.8,
        scales: Sequence[float] = (0.75, 1.0, 1.5),
        temperature: float = 3.0,
        flip_from_epoch: int | None = 9,
    ) -> None:
        _check_probability("threshold", threshold)
        if not scales or min(scales) <= 0:
            raise ValueError(f"scales must be positive, got {list(scales)}")
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        if flip_from_epoch is not None and flip_from_epoch < 0:
            raise ValueError(f"flip_from_epoch must be at least 0, got {flip_from_epoch}")
        self.threshold = threshold
        self.scales = scales
        self.temperature = temperature
        self.flip_from_epoch = flip_from_epoch


def _check_probability(key: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{key} must be in [0, 1], got {value}")
