"""Settings of ADELE's two label corrections: from predictions in training, or from a separate evaluation pass."""

from collections.abc import Sequence

from datamodules.arguments import at_least, positive, within


class TrainingPassCorrection:
    """Correct labels by the merge rule, as for SegTHOR, with predictions made during the training epoch.

    Corrections accumulate: corrected labels can be corrected again. A category is corrected once per period of
    `every_n_epochs` epochs. This happens the first time in the period that the test finds early learning to have ended
    for the category. Periods start at multiples of `every_n_epochs`, counting epochs from 1. Training images must have
    one size and no augmentation.

    Each rank keeps two bytes per training pixel in host memory until the end of the epoch: 7,000 slices of 256 x 256
    pixels take 0.9 GB in total. A mid-epoch checkpoint includes the epoch's predictions so far.

    Args:
        foreground_threshold: tau_fg, in [0, 1]: a prediction is confident if a foreground probability exceeds tau_fg.
        background_threshold: tau_bg, in [0, 1]: a prediction is confident if the background probability exceeds tau_bg.
        every_n_epochs: length of a period in epochs; None corrects after every epoch once early learning has ended.

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

    Correction starts when the early learning of any category ends. Corrections do not accumulate: each correction
    starts from the original labels. Probabilities are softmax(mean over scales of the logits / temperature). From epoch
    `flip_from_epoch` on, the authors also refine the probabilities by a dense CRF; the CRF is omitted here. According
    to the authors' code, the start epoch of CRF and flipping makes no significant difference. The code says nothing
    about the effect of the CRF itself. The command in the authors' README uses both CRF and flipping.

    Args:
        threshold: tau, in [0, 1]: a label is replaced only if the largest probability exceeds tau.
        scales: image scales whose logits are averaged.
        temperature: divisor of the logits. The number of training scales is the value that undoes the scale weights in
            the cross-entropy.
        flip_from_epoch: first epoch, counted from 0, that also averages over horizontally flipped images; None disables
            flipping.

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
