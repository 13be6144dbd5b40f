"""Settings of ADELE's two ways to correct labels: from predictions of the training pass, or of a pass of its own."""

from collections.abc import Sequence

from datamodules.arguments import at_least, positive, within


class TrainingPassCorrection:
    """Correct labels by the merge rule, as for SegTHOR, with the predictions made while the epoch trained.

    Corrections accumulate: new labels are corrected further. A category is corrected once in each stretch of
    `every_n_epochs` epochs, at the first one whose test says that its early learning has ended; a stretch begins where
    `every_n_epochs` divides the number of the epoch, counted from 1. Training images must be of one size and not
    augmented.

    The process that trains on an image keeps two bytes for each of its pixels on the host until the epoch ends: 7,000
    slices of 256 x 256 pixels take 0.9 GB over all processes. A checkpoint written within an epoch holds them, too.

    Args:
        foreground_threshold: tau_fg in [0, 1]: a prediction counts if a foreground category is more probable than this.
        background_threshold: tau_bg in [0, 1]: a prediction counts if the background is more probable than this.
        every_n_epochs: length of a stretch; None corrects after every epoch once a category's early learning has ended.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        foreground_threshold: float = 0.7,
        background_threshold: float = 0.7,
        every_n_epochs: int | None = 10,
    ) -> None:
        within(0, 1, foreground_threshold=foreground_threshold, background_threshold=background_threshold)
        at_least(1, every_n_epochs=every_n_epochs)
        self.foreground_threshold = foreground_threshold
        self.background_threshold = background_threshold
        self.every_n_epochs = every_n_epochs


class EvaluationPassCorrection:
    """Correct labels by the update rule, as for PASCAL VOC, with predictions made in evaluation mode after each epoch.

    Labels are corrected from the first end of a category's early learning on. Corrections do not accumulate: each
    starts from the labels that were given. The probabilities are softmax(mean over scales of the logits / temperature).
    The authors also refine them by a dense CRF from epoch `flip_from_epoch` on, which is left out here. Their code says
    that it makes no significant difference when CRF and mirror images begin, but not what the CRF itself does; the
    command of their README has both.

    Args:
        threshold: tau in [0, 1]; the largest probability must exceed it.
        scales: scales of the image whose logits are averaged.
        temperature: divides the logits; the number of scales in training undoes their weight in the cross-entropy.
        flip_from_epoch: first epoch, counted from 0, that also predicts mirror images; None never does.

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
        within(0, 1, threshold=threshold)
        positive(scales=min(scales, default=0.0), temperature=temperature)
        at_least(0, flip_from_epoch=flip_from_epoch)
        self.threshold = threshold
        self.scales = scales
        self.temperature = temperature
        self.flip_from_epoch = flip_from_epoch
