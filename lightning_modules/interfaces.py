"""Small protocols of what callbacks and DataModules may know about a module, checked when a run is set up.

Callbacks also find here what a module hands them to draw, and the two labels of `datamodules.batches` that stand for no
class.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.batches import IGNORED as IGNORED
from datamodules.batches import UNVERIFIED as UNVERIFIED
from datamodules.loading.own_loaders import OwnTrainingSet, gives_positions
from lightning_modules.lightning_internals import loader_source

Required = TypeVar("Required")


@runtime_checkable
class Classifier(Protocol):
    """A module that maps images `[B, C, H, W]` in [0, 1] to logits `[B, K]`, for K `num_classes`."""

    num_classes: int

    def forward(self, image: Tensor) -> Tensor: ...


@runtime_checkable
class Segmenter(Protocol):
    """A module that maps images `[B, C, H, W]` to logits `[B, K, H, W]`, for K `num_classes`."""

    num_classes: int

    def forward(self, image: Tensor) -> Tensor: ...


@runtime_checkable
class Denoiser(Protocol):
    """A module that estimates the clean image, in [0, 1], from one with Gaussian noise of standard deviation sigma."""

    def denoise(self, noisy: Tensor, sigma: float | Tensor | None = None) -> Tensor: ...


@runtime_checkable
class Restorer(Protocol):
    """A module that estimates clean images, or clips, from degraded ones."""

    def restore(self, degraded: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Estimate the clean images.

        Args:
            degraded: images `[B, C, H, W]` or clips `[B, T, C, H, W]`; 1 is white, and values outside [0, 1] occur.
            generator: on the host, for what is drawn at random.

        Returns:
            As many images or clips, of the same size or enlarged, not clipped.
        """
        ...


@runtime_checkable
class ImageMeasurer(Protocol):
    """A module that measures images against clean ones."""

    quality: Any
    """A `lightning_modules.metrics.image_quality.ImageQuality`."""


@runtime_checkable
class SpeechMeasurer(Protocol):
    """A module that measures enhanced recordings against clean ones."""

    quality: Any
    """A `lightning_modules.restoration.sgmse.speech_metrics.SpeechQuality`."""
    spectrogram: Any
    """The spectrograms that it enhances."""


@runtime_checkable
class Generator(Protocol):
    """A module that draws n images in [0, 1]."""

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor: ...


@runtime_checkable
class SmoothedClassifier(Protocol):
    """A module whose smoothed classifier has several votes on each draw, or another radius than usual.

    Certification calls it in place of `forward(image + sigma * noise)` and sigma Phi^-1(p).
    """

    certificate: str
    """The theorem that the radius rests on; a formula that proves nothing ends with `: not a guarantee`. Logs of
    different certificates are never mixed."""

    def smoothed_logits(self, image: Tensor, noise: Tensor, sigma: float) -> Tensor:
        """Give the logits `[S, B, K]` of S votes on each draw; the smoothed classifier adds the votes.

        `image` and `noise`, standard normal, are `[B, C, H, W]` in float32 and read only. A vote may depend on them
        only through image + s noise with s >= sigma, or through part of that.
        """
        ...

    def certified_radius(self, probability: Sequence[float], sigma: float) -> float:
        """Give the radius in pixel units, negative for none, if each vote has its `probability` of the class or more.

        It must not fall when a probability rises.
        """
        ...


class MixtureOutput(NamedTuple):
    """A mixture of two classifiers at some images."""

    log_probability: Tensor
    """`[B, K]`, whose softmax is the mixture."""
    gamma: Tensor
    """`[B]`: alpha before the sigmoid (and before the range it is brought to); infinite for alpha 0 and 1."""
    alpha: Tensor
    """`[B]`, in [0, 1]: the weight of the robust classifier."""


@runtime_checkable
class MixedClassifier(Protocol):
    """A module whose mixture can be evaluated at any alpha. Used by the curve of accuracy and robustness."""

    num_classes: int
    chooses_alpha: bool
    """Whether it also has a learned alpha for each image."""

    def mix(self, image: Tensor, alpha: float | None = None) -> MixtureOutput:
        """Mix at images `[B, C, H, W]` in [0, 1] with a given alpha, or with the learned one."""
        ...


@runtime_checkable
class LabelCorrector(Protocol):
    """A module that acts when early learning has ended for some categories, the same on all processes."""

    def on_early_learning_end(self, categories: list[int], epoch: int) -> None: ...


@runtime_checkable
class EarlyLearningFollower(Protocol):
    """A module that hears after every training epoch for which categories early learning seems over now.

    These may have ended earlier, too. All processes call it, after `on_early_learning_end` of the same epoch.
    """

    def on_early_learning_tested(self, categories: list[int], epoch: int) -> None: ...


@runtime_checkable
class LabelStore(Protocol):
    """A DataModule whose training labels can be corrected; batches have the corrections from the next epoch on.

    Training batches also have the labels that were given, as `original_label`. All processes call `correct_labels`
    equally often, each with samples of its own or with none; afterwards all of them have all corrections.
    """

    def correct_labels(self, index: Tensor, label: Tensor) -> None: ...


@runtime_checkable
class TrainingSamples(Protocol):
    """A DataModule that knows how many training samples it has, of which its batches give the positions as `index`."""

    num_train_samples: int


@runtime_checkable
class TrainingRows(Protocol):
    """A DataModule that gives all training rows of a table at once, the same on all processes."""

    training_rows: Mapping[str, Tensor]
    """Tensors `[N, ...]` by the keys that batches have."""


@runtime_checkable
class EpisodeSource(Protocol):
    """A DataModule of an environment in which the module is the policy."""

    def mean_return(self) -> float:
        """Play some episodes and average their sums of rewards; every process calls it and gets the same."""
        ...


@runtime_checkable
class TrainingImageSource(Protocol):
    """A DataModule that also gives its training images without augmentation, so that their labels can be judged."""

    def training_images_dataloader(self) -> DataLoader:
        """Give batches in the order of the training set; each process gets its share."""
        ...


@runtime_checkable
class HeldOutImages(TrainingImageSource, Protocol):
    """A DataModule that may hold out a fold of its training images, whose labels are judged by what never saw them."""

    def held_out_dataloader(self) -> DataLoader | None:
        """Give the fold in the order of the set, each process its share; None where no fold is held out."""
        ...


@runtime_checkable
class MeasurementSource(Protocol):
    """A DataModule of images that are known by measurements."""

    operator: Any
    """What they are measured with, a `datamodules.corruptions.operators.Operator`."""


@runtime_checkable
class ShiftedTestSets(Protocol):
    """A DataModule with test sets that are distributed differently from its training set."""

    def check_shifted_tests(self) -> None:
        """Raise what `shifted_test_loaders` would if there is no set, or one is missing or damaged; read no image."""
        ...

    def shifted_test_loaders(self) -> dict[str, Any]:
        """Give a loader for each set by name; batches of a set that has only some classes have them as `classes`."""
        ...


class ImageColumn(NamedTuple):
    """A column of a grid of images: one thing that is shown of each image."""

    values: Tensor
    """Floating point, `[n, C, H, W]`: pictures in [0, 1], in colour if C is 3 and otherwise the mean of the channels in
    grey. Integers, `[n, H, W]`: categories, drawn over the first column; 0 is transparent and 255 white. Bool,
    `[n, H, W]`: a region, outlined in all columns and none itself."""
    captions: Sequence[str] = ()
    """`[n]`: lines below the pictures."""
    marked: Sequence[bool] = ()
    """`[n]`: which captions are red."""
    difference: bool = False
    """The pictures are differences, around 0."""


@runtime_checkable
class PictureSource(Protocol):
    """A module that shows what it does with images."""

    def image_columns(self, batch: Any, outputs: Any) -> Mapping[str, Tensor | ImageColumn]:
        """Give the columns of a grid of images by name, the first one with pictures.

        It is called in one process alone, in evaluation mode and without gradients.

        Args:
            batch: a few training images as they are, or the first batch of a validation or test.
            outputs: what the step returned for the batch; None for training images.
        """
        ...


class Table(NamedTuple):
    """Numbers that a module measured, and how their lines are drawn."""

    columns: Mapping[str, Any]
    """Sequences of one length by name. The first one of numbers is the horizontal axis; the rows that have the same
    words in the columns of text are one line."""
    drawn: Mapping[str, Any] | None = None
    """A panel each, by the names of the vertical axes; None draws the other columns of numbers."""
    logarithmic: Collection[str] = ()
    """Names of the axes that are logarithmic."""
    labels: Mapping[str, str] | None = None
    """In the legend, by the words in the columns of text; None writes these."""
    title: str = ""
    kind: Literal["lines", "points", "map"] = "lines"
    """Whether rows are places on a line, points on their own, or values on a grid of the first two columns."""


@runtime_checkable
class TableSource(Protocol):
    """A module that measures tables of numbers."""

    tables: Mapping[str, Table]
    """By name: after training or a test those that it has; the same on all processes."""


@runtime_checkable
class EffectiveNetwork(Protocol):
    """A module whose network works with weights that are functions of those it trains."""

    def effective_weights(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Give the weights that it works with in evaluation mode, by the plain network's names, and what they are.

        The second is by layer, and JSON can hold it.
        """
        ...


@runtime_checkable
class Detector(Protocol):
    """A module that tells out-of-distribution or adversarial inputs from in-distribution ones."""

    detections: Sequence[Any]
    """After testing, for each set a `lightning_modules.metrics.detection.DetectionResult`."""
    score: str
    """Name of the method among them that is the detector's own."""


def require(module: Any, protocol: type[Required], needed_by: str) -> Required:
    """Refuse a module that lacks what a callback needs, and return it typed.

    Args:
        module: LightningModule or DataModule; None where a run has no DataModule.
        protocol: a class of this file.
        needed_by: name of the callback that asks, for the message.

    Returns:
        `module` itself.

    Raises:
        TypeError: names the module, the protocol and the members that are missing.
    """
    if missing := _missing(module, protocol):
        name = "a run without a DataModule" if module is None else type(module).__name__
        raise TypeError(f"{needed_by} needs a {protocol.__name__}, and {name} lacks {', '.join(missing)}")
    return module


def _missing(thing: Any, protocol: type) -> list[str]:
    members = [name for name in {*protocol.__annotations__, *vars(protocol)} if not name.startswith("_")]
    return sorted(name for name in members if not hasattr(thing, name))


def require_data(trainer: Any, protocol: type[Required], needed_by: str) -> Required:
    """Refuse a run whose data lack what is needed, and return the DataModule typed. See `require`.

    In training from a loader of the user's own, or from a DataModule that knows nothing of this project, the training
    loader's set stands in for it where it can (`OwnTrainingSet`).
    """
    data = trainer.datamodule
    if not gives_positions(data) and not _missing(OwnTrainingSet, protocol):
        source = loader_source(trainer.fit_loop)
        if source.instance is not None and source.is_defined():
            return OwnTrainingSet(source.dataloader())  # type: ignore[return-value]
    return require(data, protocol, needed_by)


def class_names(trainer: Any) -> Sequence[str] | None:
    """Give the names of the classes, `[K]`, where the DataModule knows them."""
    return getattr(getattr(trainer, "datamodule", None), "class_names", None)
