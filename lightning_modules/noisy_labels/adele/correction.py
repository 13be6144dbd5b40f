"""Settings of ADELE's two label corrections: one uses predictions from training, the other from an evaluation pass."""

from collections.abc import Sequence

from datamodules.arguments import at_least, positive, within


class TrainingPassCorrection:
    """Settings of the correction for SegTHOR: the merge rule is applied to predictions made during the training epoch.

    Corrections accumulate: corrected labels can be corrected again. A category is corrected at most once per period of
    `every_n_epochs` epochs: as soon as a test in the period finds that the category's early learning has ended. Periods
    start at multiples of `every_n_epochs`, counting epochs from 1. Training images must all have the same size, and
    must not be augmented.

    Each rank stores two bytes per pixel of its training images in host memory until the end of the epoch. For example,
    7,000 slices of 256 x 256 pixels need 0.9 GB in total. A checkpoint that is saved within an epoch includes the
    predictions that have been made in this epoch so far.

    Args:
        foreground_threshold: threshold tau_fg, in [0, 1]. A prediction is confident if a foreground probability exceeds
            tau_fg.
        background_threshold: threshold tau_bg, in [0, 1]. A prediction is also confident if the background probability
            exceeds tau_bg.
        every_n_epochs: length of a period, in epochs; None corrects a category after every epoch once its early
            learning has ended.
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
    """Settings of the correction for PASCAL VOC, which applies the update rule to predictions made after each epoch.

    The predictions are made in evaluation mode. The correction starts as soon as the early learning of some category
    has ended. Corrections do not accumulate: each correction starts from the original labels. The logits are averaged
    over scales and divided by the temperature; their softmax gives the probabilities. From epoch `flip_from_epoch` on,
    the authors also refine the probabilities with a dense CRF, which is omitted here. According to the authors' code,
    it makes no significant difference in which epoch the CRF and flipping start. What effect the CRF itself has is not
    stated there. The command in the authors' README uses both the CRF and flipping.

    Args:
        threshold: threshold tau, in [0, 1]. The label of a pixel is replaced only if the largest probability exceeds
            tau.
        scales: image scales whose logits are averaged.
        temperature: divisor of the logits. If the temperature is the number of training scales, it compensates for the
            scale weights in the cross-entropy.
        flip_from_epoch: first epoch, counted from 0, in which the logits are also averaged over horizontally flipped
            images; None disables flipping.
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
