"""Protocols that callbacks and DataModules require of modules, or of each other. They are checked at setup.

This file also defines the types that a module returns for figures and tables. The two labels of `datamodules.batches`
that stand for no class are re-exported here.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
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
    """A module that estimates clean images or clips from degraded images or clips."""

    def restore(self, degraded: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Estimate clean images from degraded images.

        Args:
            degraded: images `[B, C, H, W]` or clips `[B, T, C, H, W]`; 1 is white, and values may lie outside [0, 1].
            generator: random generator on the CPU.

        Returns:
            One estimate for each input, with the size of the input or upscaled, not clipped.
        """
        ...


@runtime_checkable
class ImageMeasurer(Protocol):
    """A module that compares images with clean images by quality metrics."""

    quality: Any
    """A `lightning_modules.metrics.image_quality.ImageQuality`."""


@runtime_checkable
class SpeechMeasurer(Protocol):
    """A module that compares enhanced recordings with clean recordings by speech metrics."""

    quality: Any
    """A `lightning_modules.restoration.sgmse.speech_metrics.SpeechQuality`."""
    spectrogram: Any
    """The spectrogram transform the module works on."""


@runtime_checkable
class Generator(Protocol):
    """A module that samples n images in [0, 1]."""

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor: ...


@runtime_checkable
class PromptedGenerator(Generator, Protocol):
    """A generator of images for texts; the attributes are settings of `sample` that a caller may replace."""

    prompts: Sequence[str]
    """Texts that `sample` cycles through."""
    takes_prompts: bool
    """Whether `sample` uses `prompts` at all."""
    num_inference_steps: int
    guidance_scale: float


@runtime_checkable
class ConditionedGenerator(Generator, Protocol):
    """A generator of images for a condition image, such as a ControlNet."""

    condition: Tensor | None
    """Condition `[1, 3, H, W]` in [0, 1] of all images of `sample`, which needs one; None if there is none yet."""


@runtime_checkable
class ClassGenerator(Protocol):
    """A generator of images of given classes."""

    @property
    def generated_classes(self) -> int:
        """Number of classes that `label` of `sample` may name; 0 if the model is unconditional."""
        ...

    def sample(self, n: int, generator: torch.Generator | None = None, label: Tensor | None = None) -> Tensor: ...


@runtime_checkable
class SeededRows(Protocol):
    """A generator whose `sample` also takes a list of random generators, one for each image."""

    generator_per_image: bool


@runtime_checkable
class TestSetGenerator(Protocol):
    """A generator whose `sample` needs the batches of a test set."""

    samples_test_set: bool


@runtime_checkable
class ImprovedNoise(Protocol):
    """A generator that improves its initial noise, and can also sample from the noise as it is."""

    start: Any
    """Name of the initial noise that `sample` uses."""
    plain_start: str
    """The `start` without improvement."""


@runtime_checkable
class SmoothedClassifier(Protocol):
    """A module whose smoothed classifier has several votes for each noise sample, or a certified radius of its own.

    Certification calls the methods of this module. They replace `forward(image + sigma * noise)` and the radius sigma
    Phi^-1(p).
    """

    certificate: str
    """The theorem behind the radius. It ends with `: not a guarantee` for a formula without a proof. Logs with
    different certificates are never mixed."""

    def smoothed_logits(self, image: Tensor, noise: Tensor, sigma: float) -> Tensor:
        """Compute the logits `[S, B, K]` of S votes for each noise sample. The smoothed classifier sums the votes.

        `image` and `noise`, standard normal, are `[B, C, H, W]` in float32 and must not be modified. A vote may depend
        on `image` and `noise` only through image + s noise with s >= sigma, or through a part of that sum.
        """
        ...

    def certified_radius(self, probability: Sequence[float], sigma: float) -> float:
        """Compute the certified radius, in pixel units, from bounds on vote probabilities.

        It is negative if nothing is certified.

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
        """Evaluate the mixture for images `[B, C, H, W]` in [0, 1]; None uses the learned alpha."""
        ...


@runtime_checkable
class AttackableMixture(Protocol):
    """A module whose predictions are those of a mixture, for attacks on the classifiers and the weight jointly."""

    def evaluated_mixture(self, image: Tensor) -> MixtureOutput:
        """Evaluate the mixture for images `[B, C, H, W]` in [0, 1], with the weight that `forward` uses."""
        ...


@runtime_checkable
class LabelCorrector(Protocol):
    """A module that is notified when early learning ends for some categories; arguments are equal on all ranks."""

    def on_early_learning_end(self, categories: list[int], epoch: int) -> None: ...


@runtime_checkable
class EarlyLearningFollower(Protocol):
    """A module that is notified, after each epoch, of the classes for which early learning has ended.

    The early learning of these classes may also have ended in an earlier epoch. Called on all ranks, after
    `on_early_learning_end` of the same epoch.
    """

    def on_early_learning_tested(self, categories: list[int], epoch: int) -> None: ...


@runtime_checkable
class LabelStore(Protocol):
    """A DataModule whose training labels can be corrected; corrections take effect in the next epoch.

    Training batches also hold the originally given labels, as `original_label`. `correct_labels` must be called equally
    often on all ranks. Each rank passes its own samples, or none. Afterwards every rank has all corrections.
    """

    def correct_labels(self, index: Tensor, label: Tensor) -> None: ...


@runtime_checkable
class TrainingSamples(Protocol):
    """A DataModule with a known number of training samples. Its batches hold the position of each sample as `index`."""

    num_train_samples: int


@runtime_checkable
class TrainingRows(Protocol):
    """A DataModule that returns all training rows of a table at once, the same on all ranks."""

    training_rows: Mapping[str, Tensor]
    """Tensors `[N, ...]` by batch key."""


@runtime_checkable
class EpisodeSource(Protocol):
    """A DataModule with an environment in which the module acts as the policy."""

    def mean_return(self) -> float:
        """Compute the mean return over some episodes; must be called on every rank, and returns the same value."""
        ...


@runtime_checkable
class TrainingImageSource(Protocol):
    """A DataModule that also provides its training images without augmentation, for scoring labels."""

    def training_images_dataloader(self) -> DataLoader:
        """Return a dataloader over this rank's shard, in the order of the training set."""
        ...


@runtime_checkable
class HeldOutImages(TrainingImageSource, Protocol):
    """A DataModule that can hold out a fold of its training images.

    A network that was not trained on the fold then scores its labels.
    """

    def held_out_dataloader(self) -> DataLoader | None:
        """Return a dataloader over this rank's shard of the fold, in the order of the training set.

        Return None if no fold is held out.
        """
        ...


@runtime_checkable
class MeasurementSource(Protocol):
    """A DataModule of images observed through measurements."""

    operator: Any
    """The measurement operator, a `datamodules.corruptions.operators.Operator`."""
    sigma: float
    """Standard deviation of the measurement noise for images in [0, 1]."""


@runtime_checkable
class ShiftedTestSets(Protocol):
    """A DataModule with test sets under distribution shift."""

    def check_shifted_tests(self) -> None:
        """Raise the errors of `shifted_test_loaders` without reading images: a set is missing or damaged, or no set is
        given.
        """
        ...

    def shifted_test_loaders(self) -> dict[str, Any]:
        """Return dataloaders by dataset name.

        If a set covers only some classes, its batches list these classes as `classes`.
        """
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
class SavesPipeline(Protocol):
    """A module that saves its model in the format of diffusers or peft."""

    def save_pipeline(self, folder: Path, writes: bool = True, merge: bool = False) -> None:
        """Save the model. Must be called on every rank.

        Args:
            folder: output folder.
            writes: whether this rank writes the files.
            merge: merge adapters into the weights, and save a whole pipeline.
        """
        ...


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
        """Return the weights that are used in evaluation mode, under the names of the plain network, and a description
        of each layer.

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
    """A module that distinguishes out-of-distribution or adversarial inputs from in-distribution inputs."""

    detections: Sequence[Any]
    """After testing, a `lightning_modules.metrics.detection.DetectionResult` for each dataset."""
    score: str
    """Name of the detector's own method among the results."""


def require(module: Any, protocol: type[Required], needed_by: str) -> Required:
    """Reject a module that lacks members of a protocol. Otherwise return the module with the type of the protocol.

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
    """Reject a run if its DataModule lacks members of a protocol.

    Otherwise return the DataModule with the type of the protocol. See `require`.

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
    """Return the class names, `[K]`, or None if the names are unknown."""
    return getattr(getattr(trainer, "datamodule", None), "class_names", None)
