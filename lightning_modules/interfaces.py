"""Protocols that callbacks and DataModules require of a module or of each other, checked at setup.

This file also defines the types that a module returns for figures and tables. It re-exports the two labels of
`datamodules.batches` that stand for no class.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
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
    """A module that maps images `[B, C, H, W]` in [0, 1] to logits `[B, K]`, with K = `num_classes`."""

    num_classes: int

    def forward(self, image: Tensor) -> Tensor: ...


@runtime_checkable
class Segmenter(Protocol):
    """A module that maps images `[B, C, H, W]` to logits `[B, K, H, W]`, with K = `num_classes`."""

    num_classes: int

    def forward(self, image: Tensor) -> Tensor: ...


@runtime_checkable
class Denoiser(Protocol):
    """A module that removes Gaussian noise of standard deviation sigma from images; its estimates are in [0, 1]."""

    def denoise(self, noisy: Tensor, sigma: float | Tensor | None = None) -> Tensor: ...


@runtime_checkable
class Restorer(Protocol):
    """A module that estimates clean images, or clips, from degraded ones."""

    def restore(self, degraded: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Estimate the clean images from the degraded ones.

        Args:
            degraded: images `[B, C, H, W]` or clips `[B, T, C, H, W]`; 1 is white, and values may lie outside [0, 1].
            generator: random generator on the CPU.

        Returns:
            One estimate for each input, of the same size or upscaled, not clipped.
        """
        ...


@runtime_checkable
class ImageMeasurer(Protocol):
    """A module that compares images with clean ones by quality metrics."""

    quality: Any
    """A `lightning_modules.metrics.image_quality.ImageQuality`."""


@runtime_checkable
class SpeechMeasurer(Protocol):
    """A module that compares enhanced recordings with clean ones by speech metrics."""

    quality: Any
    """A `lightning_modules.restoration.sgmse.speech_metrics.SpeechQuality`."""
    spectrogram: Any
    """The spectrogram transform the module works on."""


@runtime_checkable
class Generator(Protocol):
    """A module that samples n images in [0, 1]."""

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor: ...


@runtime_checkable
class SmoothedClassifier(Protocol):
    """A module whose smoothed classifier has several votes for each noise sample, or a certified radius of its own.

    Certification calls its methods instead of `forward(image + sigma * noise)` and sigma Phi^-1(p).
    """

    certificate: str
    """The theorem behind the radius. It ends with `: not a guarantee` for a formula without a proof. Logs with
    different certificates are never mixed."""

    def smoothed_logits(self, image: Tensor, noise: Tensor, sigma: float) -> Tensor:
        """Compute the logits `[S, B, K]` of S votes for each noise sample; the smoothed classifier sums the votes.

        `image` and `noise`, standard normal, are `[B, C, H, W]` in float32 and must not be modified. A vote may depend
        on them only through image + s noise with s >= sigma, or through part of that sum.
        """
        ...

    def certified_radius(self, probability: Sequence[float], sigma: float) -> float:
        """Compute the certified radius in pixel units from bounds on vote probabilities; negative if there is none.

        `probability` holds, for each vote, a lower bound on the probability of the class. The radius must not decrease
        if a bound increases.
        """
        ...


class MixtureOutput(NamedTuple):
    """The output of a mixture of two classifiers."""

    log_probability: Tensor
    """`[B, K]`; the softmax is the mixture."""
    gamma: Tensor
    """`[B]`: alpha before the sigmoid (and before scaling to its range); infinite for alpha 0 and 1."""
    alpha: Tensor
    """`[B]`, in [0, 1]: the weight of the robust classifier."""


@runtime_checkable
class MixedClassifier(Protocol):
    """A module whose mixture can be evaluated at any alpha, for the trade-off curve of accuracy and robustness."""

    num_classes: int
    chooses_alpha: bool
    """Whether it also has a learned alpha for each image."""

    def mix(self, image: Tensor, alpha: float | None = None) -> MixtureOutput:
        """Evaluate the mixture for images `[B, C, H, W]` in [0, 1]; an alpha of None is the learned one."""
        ...


@runtime_checkable
class LabelCorrector(Protocol):
    """A module that is notified when early learning ends for some categories; all ranks pass it the same arguments."""

    def on_early_learning_end(self, categories: list[int], epoch: int) -> None: ...


@runtime_checkable
class EarlyLearningFollower(Protocol):
    """Notified after each epoch of the classes whose early-learning phase has ended.

    The early learning of these classes may also have ended in an earlier epoch. All ranks call it, after
    `on_early_learning_end` of the same epoch.
    """

    def on_early_learning_tested(self, categories: list[int], epoch: int) -> None: ...


@runtime_checkable
class LabelStore(Protocol):
    """A DataModule whose training labels can be corrected; corrections take effect in the next epoch.

    Training batches also hold the originally given labels, as `original_label`. All ranks call `correct_labels` equally
    often, each with its own samples or with none. Afterwards every rank has all corrections.
    """

    def correct_labels(self, index: Tensor, label: Tensor) -> None: ...


@runtime_checkable
class TrainingSamples(Protocol):
    """A DataModule with a known number of training samples; its batches hold each sample's position as `index`."""

    num_train_samples: int


@runtime_checkable
class TrainingRows(Protocol):
    """A DataModule that returns all training rows of a table at once, the same on all ranks."""

    training_rows: Mapping[str, Tensor]
    """Tensors `[N, ...]` by batch key."""


@runtime_checkable
class EpisodeSource(Protocol):
    """A DataModule with an environment in which the module is the policy."""

    def mean_return(self) -> float:
        """Compute the mean return over some episodes; every rank calls this method and gets the same value."""
        ...


@runtime_checkable
class TrainingImageSource(Protocol):
    """A DataModule that also provides its training images without augmentation, to score their labels."""

    def training_images_dataloader(self) -> DataLoader:
        """Return a dataloader over this rank's shard, in the order of the training set."""
        ...


@runtime_checkable
class HeldOutImages(TrainingImageSource, Protocol):
    """A DataModule that can hold out a fold of its training images, for an unbiased network to score their labels."""

    def held_out_dataloader(self) -> DataLoader | None:
        """Return a dataloader over this rank's shard of the fold, in the set's order; None without a held-out fold."""
        ...


@runtime_checkable
class MeasurementSource(Protocol):
    """A DataModule of images observed through measurements."""

    operator: Any
    """The measurement operator, a `datamodules.corruptions.operators.Operator`."""


@runtime_checkable
class ShiftedTestSets(Protocol):
    """A DataModule with test sets under distribution shift."""

    def check_shifted_tests(self) -> None:
        """Raise the error of `shifted_test_loaders` if there is no set, or one is missing or damaged; read no image."""
        ...

    def shifted_test_loaders(self) -> dict[str, Any]:
        """Return dataloaders by dataset name; if a set covers only some classes, its batches list them as `classes`."""
        ...


class ImageColumn(NamedTuple):
    """A column of an image grid, such as the input or the prediction of each image."""

    values: Tensor
    """Floating point, `[n, C, H, W]`: images in [0, 1], in colour if C is 3, otherwise the channel mean in grey.
    Integer, `[n, H, W]`: categories, overlaid on the first column; 0 is transparent and 255 white. Bool,
    `[n, H, W]`: a region, outlined in all columns and without a column of its own."""
    captions: Sequence[str] = ()
    """`[n]`: captions below the images."""
    marked: Sequence[bool] = ()
    """`[n]`: which captions are red."""
    difference: bool = False
    """The images are differences, around 0."""


@runtime_checkable
class PictureSource(Protocol):
    """A module that provides images of its inputs and outputs."""

    def image_columns(self, batch: Any, outputs: Any) -> Mapping[str, Tensor | ImageColumn]:
        """Return the columns of an image grid by name; the first one holds images.

        Called on one rank only, in evaluation mode and without gradients.

        Args:
            batch: a few unmodified training images, or the first batch of a validation or test.
            outputs: return value of the step for this batch; None for training images.
        """
        ...


class Table(NamedTuple):
    """Columns of numbers from a module, and how to plot them."""

    columns: Mapping[str, Any]
    """Sequences of equal length, by name. The first numeric one is the horizontal axis. Rows with equal values in the
    text columns form one line."""
    drawn: Mapping[str, Any] | None = None
    """One panel for each entry, column name by label of the vertical axis; None plots all other numeric columns."""
    logarithmic: Collection[str] = ()
    """Names of the columns with a logarithmic axis."""
    labels: Mapping[str, str] | None = None
    """Legend labels, by the values of the text columns; None shows these values."""
    title: str = ""
    kind: Literal["lines", "points", "map"] = "lines"
    """Plot rows as lines, as separate points, or as values on a grid of the first two columns."""


@runtime_checkable
class TableSource(Protocol):
    """A module that provides tables of numbers."""

    tables: Mapping[str, Table]
    """The tables available after training or testing, by name; the same on all ranks."""


@runtime_checkable
class EffectiveNetwork(Protocol):
    """A module whose network computes with functions of its trained weights."""

    def effective_weights(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the weights used in evaluation mode, by the plain network's names, and a description of each layer.

        The description must be serialisable as JSON.
        """
        ...


class ExportedInput(NamedTuple):
    """An input of an exported function."""

    dimensions: str
    """Names of the dimensions, such as `B C H W`: B samples, N noise samples, C channels, H height and W width."""
    sample: Callable[..., Tensor] = torch.rand
    """Samples an example of a given shape."""
    description: str = "images in [0, 1]"


class Exported(NamedTuple):
    """What a module computes for its users, as a function of tensors, for use outside this project."""

    kind: str
    function: Callable[..., Tensor]
    """Maps the inputs, by position, to the output; the same inputs always give the same output."""
    inputs: Mapping[str, ExportedInput]
    output: str
    """Name of the output."""
    dimensions: str
    """Names of the output's dimensions, as for the inputs."""
    description: str
    """What the output is, in one phrase."""
    sizes: Mapping[str, int] = {}
    """Sizes of dimensions that the module knows itself; the others follow from the shape of an image."""
    weights: AbstractContextManager[None] = nullcontext()
    """Context within which the module has the weights to export, such as averaged ones."""


@runtime_checkable
class Exportable(Protocol):
    """A module whose prediction, or whose network, can be exported as a function of tensors."""

    def exported(self, sigma: float | None = None) -> Exported:
        """Return the function to export.

        Args:
            sigma: standard deviation of the noise of a smoothed classifier, in pixel units; 0 exports the classifier
                without smoothing, and None uses the module's own value.

        Raises:
            ValueError: if the prediction is no such function, or `sigma` does not apply.
        """
        ...


def refuse_sigma(sigma: float | None, module: Any) -> None:
    """Reject a noise level for a module that is not a smoothed classifier.

    Raises:
        ValueError: if `sigma` is neither None nor 0.
    """
    if sigma:
        raise ValueError(f"sigma is {sigma:g}, but {type(module).__name__} is not a smoothed classifier: leave it out")


@runtime_checkable
class Detector(Protocol):
    """A module that distinguishes out-of-distribution or adversarial inputs from in-distribution ones."""

    detections: Sequence[Any]
    """After testing, a `lightning_modules.metrics.detection.DetectionResult` for each dataset."""
    score: str
    """Name of the detector's own method among the results."""


def require(module: Any, protocol: type[Required], needed_by: str) -> Required:
    """Reject a module that lacks a protocol's members; otherwise return it, typed.

    Args:
        module: LightningModule or DataModule; None if a run has no DataModule.
        protocol: a protocol from this file.
        needed_by: name of the callback, for the message.

    Returns:
        `module` itself.

    Raises:
        TypeError: if members are missing; the message names the module, the protocol and the members.
    """
    if missing := _missing(module, protocol):
        name = "a run without a DataModule" if module is None else type(module).__name__
        raise TypeError(f"{needed_by} needs a {protocol.__name__}, and {name} lacks {', '.join(missing)}")
    return module


def _missing(thing: Any, protocol: type) -> list[str]:
    members = [name for name in {*protocol.__annotations__, *vars(protocol)} if not name.startswith("_")]
    return sorted(name for name in members if not hasattr(thing, name))


def require_data(trainer: Any, protocol: type[Required], needed_by: str) -> Required:
    """Reject a run whose DataModule lacks a protocol's members; otherwise return the DataModule, typed. See `require`.

    If the user passes a dataloader or a DataModule from outside this project, the dataset of the training dataloader is
    used instead, where possible (`OwnTrainingSet`).
    """
    data = trainer.datamodule
    if not gives_positions(data) and not _missing(OwnTrainingSet, protocol):
        source = loader_source(trainer.fit_loop)
        if source.instance is not None and source.is_defined():
            return OwnTrainingSet(source.dataloader())  # type: ignore[return-value]
    return require(data, protocol, needed_by)


def class_names(trainer: Any) -> Sequence[str] | None:
    """Return the class names, `[K]`, or None if the DataModule does not know them."""
    return getattr(getattr(trainer, "datamodule", None), "class_names", None)
