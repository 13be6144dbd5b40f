"""Protocols that callbacks and DataModules require of a run's LightningModule or DataModule, and check at setup.

In this file, "module" means the LightningModule. The file also defines the types that a module returns for figures and
tables, and re-exports the two labels of `datamodules.batches` that do not denote a class.

The protocols with their members and users. An optional protocol is tested by `data_with` or `isinstance`, the others by
`require` at setup.

Classifier: forward, num_classes; used by callbacks.attacks, callbacks.certification, callbacks.curvature,
    callbacks.early_learning, callbacks.labels, callbacks.macro_scores, callbacks.predictions,
    callbacks.shifted_accuracy
Denoiser: denoise; used by robustness.denoised_classifier
ImageMeasurer: quality; used by callbacks.guards, callbacks.image_quality
SpeechMeasurer: quality, spectrogram; used by callbacks.speech_metrics_table
Generator: sample; used by callbacks.generation, experiments.calls.execute
PromptedGenerator: guidance_scale, num_inference_steps, prompts, sample, takes_prompts; used by callbacks.generation
SizedGenerator: network, sample, sample_size; used by callbacks.generation, experiments.commands.generate
ConditionedGenerator: condition, sample; used by callbacks.generation
ClassGenerator: generated_classes, sample; used by callbacks.generation
SeededRows: generator_per_image; used by callbacks.generation
TestSetGenerator: samples_test_set; used by callbacks.generation
ImprovedNoise: plain_start, start; used by callbacks.generation
SmoothedClassifier: certificate, certified_radius, smoothed_logits; used by callbacks.attacks, callbacks.certification,
    robustness.certificates, robustness.smoothed_training
MixedClassifier: chooses_alpha, mix, num_classes; used by callbacks.attacks
AttackableMixture: evaluated_mixture; used by callbacks.attacks
LabelCorrector: on_early_learning_end; used by callbacks.early_learning
EarlyLearningFollower: on_early_learning_tested; used by callbacks.early_learning
LabelStore: correct_labels; used by noisy_labels.adele, noisy_labels.annotation_efficient
TrainingSamples: num_train_samples; used by callbacks.curvature, dynamics.batch_lr, dynamics.sgd_noise,
    efficiency.wta_crs, noisy_labels.elr, noisy_labels.elr_plus, noisy_labels.lsa, optimization.mbbo, optimization.sso,
    probabilistic.scale_mixture_nngp, probabilistic.singular_density
TrainingRows: training_rows; used by optimization.mbbo, optimization.optimistic_omd, probabilistic.meco,
    probabilistic.scale_mixture_nngp, probabilistic.score_estimation
EpisodeSource: mean_return; used by callbacks.data_preview, callbacks.episode_returns
TrainingImageSource: training_images_dataloader; used by baselines.ood_scores, callbacks.image_grid, callbacks.labels,
    efficiency.ofq, experiments.commands.label_report, noisy_labels.adele, noisy_labels.lsa, probabilistic.meco,
    probabilistic.scale_mixture_nngp, training.chosen_samples
HeldOutImages: held_out_dataloader, training_images_dataloader; used by callbacks.labels
Pretrained: weights_from; used by experiments.calls.execute
Resumable: resume_may_change; used by experiments.calls.build
GivenLabels: adds_label_noise; used by callbacks.trials, experiments.calls.build
LabelNoiseSource: label_noise, num_classes; used by callbacks.data_preview
StoredLabels: clean_label, label; used by callbacks.data_preview
TokenizerSource: tokenizer; used by callbacks.data_preview
DescribedData: describe; used by experiments.commands.show
DescribesCaptions: describe_captions; used by experiments.commands.show
NamedClasses: class_names; used by callbacks.attacks, callbacks.data_preview, callbacks.early_learning,
    callbacks.image_grid, callbacks.labels, callbacks.predictions, experiments.commands.export, tasks.segmenter
FixedImageShape: image_shape; used by callbacks.guards, diffusion.finetuning, dynamics.noise_mask,
    experiments.commands.export, experiments.commands.generate, robustness.diffusion_guard
CroppedImageSource: crop, image_shape; used by experiments.commands.export
SeededData: seed; used by callbacks.generation, callbacks.pretraining
TestOrigins: origin_names; used by baselines.ood_scores, probabilistic.meco, robustness.mahalanobis
NoiseSource: noise; used by baselines.sure, callbacks.data_preview, denoising.noise2score
NamedTestSets: test_names; used by tasks.writers
PredictionSource: predict_set; used by restoration.sgmse, tasks.writers
PartlyReadable: unreadable; used by tasks.writers
StackedPages: stacks; used by tasks.writers
ValidationSource: validation_set; used by probabilistic.tester_learner
ReferenceImages: training_images; used by diffusion.noise_diffusion
RowBatches: batch_size, rows_on_device, whole; used by dynamics.sgd_noise, optimization.subgm, training.requirements
TimedSequences: interval, num_times; used by probabilistic.fractional_sde
MeasurementSource: operator, sigma; used by callbacks.data_preview, diffusion.measured_restoration, diffusion.score_sde
ShiftedTestSets: check_shifted_tests, shifted_test_loaders; used by callbacks.shifted_accuracy
SavesPipeline: save_pipeline; used by experiments.commands.push
SavesAdapters: save_adapters; used by experiments.commands.push, experiments.exporting.formats.comfyui,
    experiments.exporting.formats.kohya
PictureSource: image_columns; used by callbacks.image_grid
TableSource: tables; used by callbacks.save_tables, probabilistic.meco
EffectiveNetwork: effective_weights; used by callbacks.export_effective_weights, experiments.commands.export
Exportable: export_function; used by experiments.commands.export
DescribesLoss: loss_docstring; used by experiments.commands.push
Detector: detections, score; used by callbacks.detection
BatchSeeder: seeds_batches; used by method_module
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
from datamodules.files.image_files import Crop
from datamodules.files.tiff_files import Layout
from datamodules.loading.own_loaders import OwnTrainingSet, gives_positions

Required = TypeVar("Required")


@runtime_checkable
class Classifier(Protocol):
    """A module that maps images `[B, C, H, W]` in [0, 1] to logits, with K = `num_classes`.

    The logits are `[B, K]`, or `[B, K, H, W]` if the module classifies pixels.
    """

    num_classes: int

    def forward(self, image: Tensor) -> Tensor: ...


@runtime_checkable
class Denoiser(Protocol):
    """A module that removes Gaussian noise of standard deviation sigma from images; its estimates are in [0, 1]."""

    def denoise(self, noisy: Tensor, sigma: float | Tensor | None = None) -> Tensor: ...


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
    """The transform that computes the spectrograms on which the module works."""


@runtime_checkable
class Generator(Protocol):
    """A module that samples n images in [0, 1]."""

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor: ...


@runtime_checkable
class PromptedGenerator(Generator, Protocol):
    """A generator of images from text prompts. Its attributes are settings of `sample`; callers may change them."""

    prompts: Sequence[str]
    """Prompts of the images; `sample` cycles through them."""
    takes_prompts: bool
    """Whether `sample` uses `prompts` at all."""
    num_inference_steps: int
    guidance_scale: float


@runtime_checkable
class SizedGenerator(Generator, Protocol):
    """A generator whose text-to-image model `network` can sample images of several sizes."""

    network: Any
    sample_size: tuple[int, ...] | None
    """Height and width of the images of `sample`, in pixels, after the number of frames for clips; None means the size
    with which the network was trained."""


@runtime_checkable
class ConditionedGenerator(Generator, Protocol):
    """A generator of images that are conditioned on another image; for example, a ControlNet."""

    condition: Tensor | None
    """Condition `[1, 3, H, W]` in [0, 1] for all images of `sample`; `sample` fails if it is None."""


@runtime_checkable
class ClassGenerator(Protocol):
    """A generator of images of given classes."""

    @property
    def generated_classes(self) -> int:
        """Number of classes that the argument `label` of `sample` can request; 0 if the model is unconditional."""
        ...

    def sample(self, n: int, generator: torch.Generator | None = None, label: Tensor | None = None) -> Tensor: ...


@runtime_checkable
class SeededRows(Protocol):
    """A generator whose `sample` also accepts a list of random generators, one for each image."""

    generator_per_image: bool


@runtime_checkable
class TestSetGenerator(Protocol):
    """A generator whose `sample` needs the batches of a test set."""

    samples_test_set: bool


@runtime_checkable
class ImprovedNoise(Protocol):
    """A generator that improves its initial noise, and can also sample from the unimproved noise."""

    start: Any
    """Kind of initial noise that `sample` uses."""
    plain_start: str
    """The value of `start` that selects the unimproved noise."""


@runtime_checkable
class SmoothedClassifier(Protocol):
    """A module whose smoothed classifier has several votes for each noise sample, or its own formula for the radius.

    In certification, `smoothed_logits` replaces `forward(image + sigma * noise)`, and `certified_radius` replaces the
    radius sigma Phi^-1(p), where p is a lower bound on the probability of the class.
    """

    certificate: str
    """Name of the theorem that gives the radius. For a formula without a proof, the name ends with `: not a guarantee`.
    Logs with different certificates are never mixed."""

    def smoothed_logits(self, image: Tensor, noise: Tensor, sigma: float) -> Tensor:
        """Compute the logits `[S, B, K]` of S votes for each noise sample. The smoothed classifier sums the votes.

        `image` and the standard normal `noise` are `[B, C, H, W]` in float32, and must not be modified. A vote may
        depend on `image` and `noise` only through image + s noise with s >= sigma, or through a part of that sum.
        """
        ...

    def certified_radius(self, probability: Sequence[float], sigma: float) -> float:
        """Compute the certified radius, in pixel units, from bounds on vote probabilities.

        A negative radius means that nothing is certified.

        For each vote, `probability` contains a lower bound on the probability of the class. The radius must not
        decrease if one of these bounds increases.
        """
        ...


class MixtureOutput(NamedTuple):
    """The output of a mixture of two classifiers."""

    log_probability: Tensor
    """`[B, K]`; the softmax of this tensor gives the class probabilities of the mixture."""
    gamma: Tensor
    """`[B]`: input of the sigmoid whose output, scaled to the range of alpha, is alpha; infinite for alpha 0 and 1."""
    alpha: Tensor
    """`[B]`, in [0, 1]: the weight of the robust classifier."""


@runtime_checkable
class MixedClassifier(Protocol):
    """A module whose mixture of classifiers can be evaluated at any weight, to plot accuracy against robustness."""

    num_classes: int
    chooses_alpha: bool
    """Whether the module also has a learned alpha for each image."""

    def mix(self, image: Tensor, alpha: float | None = None) -> MixtureOutput:
        """Evaluate the mixture for images `[B, C, H, W]` in [0, 1]; if `alpha` is None, the learned alpha is used."""
        ...


@runtime_checkable
class AttackableMixture(Protocol):
    """A module that predicts by a mixture of classifiers.

    Attacks can target the classifiers and the mixture weight jointly.
    """

    def evaluated_mixture(self, image: Tensor) -> MixtureOutput:
        """Evaluate the mixture for images `[B, C, H, W]` in [0, 1], with the same mixture weight as in `forward`."""
        ...


@runtime_checkable
class LabelCorrector(Protocol):
    """A module that is notified, with the same arguments on all ranks, when early learning ends for some categories."""

    def on_early_learning_end(self, categories: list[int], epoch: int) -> None: ...


@runtime_checkable
class EarlyLearningFollower(Protocol):
    """A module that is notified, after each epoch, of the classes for which early learning has ended.

    The list `categories` includes classes for which early learning ended in an earlier epoch. The method is called on
    all ranks, after `on_early_learning_end` of the same epoch.
    """

    def on_early_learning_tested(self, categories: list[int], epoch: int) -> None: ...


@runtime_checkable
class LabelStore(Protocol):
    """A DataModule whose training labels can be corrected; corrections take effect in the next epoch.

    Training batches also contain the originally given labels, as `original_label`. All ranks must call `correct_labels`
    the same number of times. Each rank passes its own samples, or none; after the call, every rank has all corrections.
    """

    def correct_labels(self, index: Tensor, label: Tensor) -> None: ...


@runtime_checkable
class TrainingSamples(Protocol):
    """A DataModule with a known number of training samples, whose batches contain each sample's position as `index`."""

    num_train_samples: int


@runtime_checkable
class TrainingRows(Protocol):
    """A DataModule that provides all training rows of a table at once; every rank receives the same rows."""

    training_rows: Mapping[str, Tensor]
    """Tensors `[N, ...]` by batch key."""


@runtime_checkable
class EpisodeSource(Protocol):
    """A DataModule with an environment in which the module acts as the policy."""

    def mean_return(self) -> float:
        """Compute the mean return over some episodes; it is the same on all ranks. Must be called on every rank."""
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

    The labels of this fold can then be scored by a network that was not trained on the fold.
    """

    def held_out_dataloader(self) -> DataLoader | None:
        """Return a dataloader over this rank's shard of the fold, in the order of the training set.

        Return None if no fold is held out.
        """
        ...


@runtime_checkable
class Pretrained(Protocol):
    """A network whose weights were loaded when it was built. `backbones.weights.loaded_from` sets the attribute."""

    weights_from: str
    """File, folder or name on the Hugging Face Hub."""


@runtime_checkable
class Resumable(Protocol):
    """A module or a DataModule with settings that may change when a run is resumed, as results do not depend on them.

    The keys are those of its own constructor and of the objects in it, such as `num_workers` and `data_dir`.
    """

    resume_may_change: Collection[str]


@runtime_checkable
class GivenLabels(Protocol):
    """A DataModule whose labels may be wrong on purpose."""

    adds_label_noise: bool
    """Whether label noise is added to the training labels, and therefore also to the held-out validation labels."""


@runtime_checkable
class LabelNoiseSource(Protocol):
    """A DataModule that can add label noise of a known distribution."""

    label_noise: Any
    """A `datamodules.corruptions.label_noise.LabelNoise`; None adds no noise."""
    num_classes: int


@runtime_checkable
class StoredLabels(Protocol):
    """A dataset with the labels of all its samples in memory."""

    label: Tensor
    """Given labels `[N]`."""
    clean_label: Tensor | None
    """True labels `[N]`, negative where unknown; None if all are unknown."""


@runtime_checkable
class TokenizerSource(Protocol):
    """A DataModule of texts."""

    tokenizer: Any
    """A tokenizer of the library transformers."""


@runtime_checkable
class DescribedData(Protocol):
    """A DataModule with a report about its training data."""

    def describe(self) -> list[list[str]]:
        """Return rows of a fact and its value; the training data have been read."""


@runtime_checkable
class DescribesCaptions(Protocol):
    """A module class that describes the captions of its training images before the model is loaded."""

    @classmethod
    def describe_captions(cls, data: Any, settings: Mapping[str, Any]) -> list[list[str]]:
        """Return rows of a fact and its value.

        Args:
            data: DataModule, whose training data have been read.
            settings: constructor arguments of the module, as in a configuration.
        """


@runtime_checkable
class NamedClasses(Protocol):
    """A DataModule that knows the names of its classes."""

    class_names: Sequence[str] | None


@runtime_checkable
class FixedImageShape(Protocol):
    """A DataModule whose images all have one shape, which is known before they are read."""

    image_shape: Sequence[int]


@runtime_checkable
class CroppedImageSource(FixedImageShape, Protocol):
    """A DataModule whose images may be resized and cropped."""

    @property
    def crop(self) -> Crop | None:
        """How images are resized and cropped in evaluation; None if they are not."""
        ...


@runtime_checkable
class SeededData(Protocol):
    """A DataModule with a seed of its own."""

    seed: int


@runtime_checkable
class TestOrigins(Protocol):
    """A DataModule with one test set in distribution and several test sets out of distribution, in the same order."""

    origin_names: Sequence[str]


@runtime_checkable
class NoiseSource(Protocol):
    """A DataModule that adds image noise of a known distribution."""

    noise: Any


@runtime_checkable
class NamedTestSets(Protocol):
    """A DataModule with several test sets."""

    test_names: Sequence[str]
    """Names of the test sets, in the order of the test dataloaders."""


@runtime_checkable
class PredictionSource(Protocol):
    """A DataModule that can also predict data other than its test sets."""

    predict_set: Any
    """None predicts the test sets."""


@runtime_checkable
class PartlyReadable(Protocol):
    """A dataset that leaves out damaged files."""

    unreadable: Collection[str]


@runtime_checkable
class StackedPages(Protocol):
    """A dataset in which each page of a TIFF file, or of another file with several pages, is an image."""

    stacks: Mapping[str, Layout]
    """How the pages of each such file are arranged, by the file's name without suffix."""


@runtime_checkable
class ValidationSource(Protocol):
    """A DataModule that may have validation samples."""

    validation_set: Any
    """None means that there are none."""


@runtime_checkable
class ReferenceImages(Protocol):
    """A DataModule that also returns the images on which a generative model was trained, to find copies of them."""

    def training_images(self) -> tuple[Tensor, int] | None: ...


@runtime_checkable
class RowBatches(Protocol):
    """A DataModule whose batches are rows of a table."""

    whole: bool
    """Whether a batch contains all training rows."""
    batch_size: int
    rows_on_device: bool


@runtime_checkable
class TimedSequences(Protocol):
    """A DataModule of sequences that are observed at equal intervals."""

    num_times: int
    interval: float


@runtime_checkable
class MeasurementSource(Protocol):
    """A DataModule of images that are observed through measurements."""

    operator: Any
    """The measurement operator, a `datamodules.corruptions.operators.Operator`."""
    sigma: float
    """Standard deviation of the measurement noise for images in [0, 1]."""


@runtime_checkable
class ShiftedTestSets(Protocol):
    """A DataModule with test sets under distribution shift."""

    def check_shifted_tests(self) -> None:
        """Raise an error if no shifted test set is given, or if one is missing or damaged; images are not read."""
        ...

    def shifted_test_loaders(self) -> dict[str, Any]:
        """Return dataloaders by dataset name.

        If a test set covers only some classes, its batches contain the list of these classes as `classes`.
        """
        ...


class ImageColumn(NamedTuple):
    """A column of an image grid, such as the inputs or the predictions."""

    values: Tensor
    """Floats `[n, C, H, W]` are images in [0, 1], shown in colour if C is 3, and otherwise as the channel mean in grey.
    Integers `[n, H, W]` are categories, overlaid on the first column: 0 is transparent and 255 white. Booleans
    `[n, H, W]` are regions, which are outlined in all columns and have no column of their own."""
    captions: Sequence[str] = ()
    """Captions below the images, `[n]`."""
    marked: Sequence[bool] = ()
    """Whether each caption is printed in red, `[n]`."""
    difference: bool = False
    """Whether the values are differences, centred on 0."""


@runtime_checkable
class SavesPipeline(Protocol):
    """A module that saves its model in the format of diffusers or peft."""

    def save_pipeline(self, folder: Path, writes: bool = True, merge: bool = False) -> None:
        """Save the model. Must be called on every rank.

        Args:
            folder: output folder.
            writes: whether this rank writes the files.
            merge: whether to merge adapters into the weights, and save a whole pipeline.
        """
        ...


@runtime_checkable
class SavesAdapters(Protocol):
    """A module that saves its adapters under the names of other programs."""

    def save_adapters(self, file: Path, tool: Literal["kohya", "comfyui"]) -> None:
        """Save the adapters, each layer with its alpha.

        Args:
            file: new `.safetensors` file.
            tool: program whose names the file has.
        """
        ...


@runtime_checkable
class PictureSource(Protocol):
    """A module that provides images of its inputs and outputs."""

    def image_columns(self, batch: Any, outputs: Any) -> Mapping[str, Tensor | ImageColumn]:
        """Return the columns of an image grid by name. The first column must contain images.

        This method is called on one rank only, in evaluation mode and without gradients.

        Args:
            batch: a few unmodified training images, or one of the first batches of a validation or test epoch.
            outputs: return value of the step for this batch; None for training images.
        """
        ...


class Table(NamedTuple):
    """A table of a module's results, and the settings for plotting it."""

    columns: Mapping[str, Any]
    """Sequences of equal length, by column name. The first numeric column is the horizontal axis. Rows with equal
    values in the text columns form one line."""
    drawn: Mapping[str, Any] | None = None
    """Columns to plot in each panel, by the label of its vertical axis. None plots all other numeric columns."""
    logarithmic: Collection[str] = ()
    """Names of the columns that are plotted on a logarithmic axis."""
    labels: Mapping[str, str] | None = None
    """Legend labels by value of the text columns; None uses the values themselves."""
    title: str = ""
    kind: Literal["lines", "points", "map"] = "lines"
    """Kind of plot: lines, separate points, or a map of values over the first two columns."""


@runtime_checkable
class TableSource(Protocol):
    """A module that provides tables of numbers."""

    tables: Mapping[str, Table]
    """Tables by name. They are available after training or testing, and are the same on all ranks."""


@runtime_checkable
class EffectiveNetwork(Protocol):
    """A module whose network computes with effective weights, which are functions of the trained weights."""

    def effective_weights(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the weights that are used in evaluation mode, and a description of each layer.

        The weights have the parameter names of the same network with ordinary layers. The descriptions must be
        serialisable as JSON.
        """
        ...


class ExportedInput(NamedTuple):
    """An input of an exported function."""

    dimensions: str
    """Names of the dimensions, such as `B C H W`: B samples, N noise samples, C channels, H height and W width."""
    sample: Callable[..., Tensor] = torch.rand
    """Function that samples an example of a given shape."""
    description: str = "images in [0, 1]"


class Exported(NamedTuple):
    """A module's prediction as a function of tensors, for use outside this project."""

    kind: str
    function: Callable[..., Tensor]
    """Deterministic function that maps the inputs, passed by position, to the output."""
    inputs: Mapping[str, ExportedInput]
    output: str
    """Name of the output."""
    dimensions: str
    """Names of the output's dimensions, in the same notation as for the inputs."""
    description: str
    """Description of the output in one phrase."""
    sizes: Mapping[str, int] = {}
    """Sizes of the dimensions that the module determines; the other sizes follow from the shape of an image."""
    weights: AbstractContextManager[None] = nullcontext()
    """Context within which the module has the weights to export, such as averaged weights."""


@runtime_checkable
class Exportable(Protocol):
    """A module whose prediction, or whose network, can be exported as a function of tensors."""

    def export_function(self, sigma: float | None = None) -> Exported:
        """Return the function to export.

        Args:
            sigma: standard deviation of the noise of a smoothed classifier, in pixel units; 0 exports the classifier
                without smoothing, and None uses the module's own value.

        Raises:
            ValueError: if the prediction is not a function of tensors, or `sigma` does not apply to the module.
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
class DescribesLoss(Protocol):
    """A module class whose training loss depends on its arguments, and must therefore be named by the model card."""

    @classmethod
    def loss_docstring(cls, settings: Mapping[str, Any]) -> str | None:
        """Return a docstring with the equation and the source of the loss; None if they are those of the method.

        Args:
            settings: constructor arguments, as in a configuration.
        """


@runtime_checkable
class Detector(Protocol):
    """A module that distinguishes out-of-distribution or adversarial inputs from in-distribution inputs."""

    detections: Sequence[Any]
    """Results of a test: a `lightning_modules.metrics.detection.DetectionResult` for each dataset."""
    score: str
    """Name of the module's own detection score; the results also contain other scores."""


@runtime_checkable
class BatchSeeder(Protocol):
    """A callback that seeds the random generators before each batch, for any number of ranks."""

    seeds_batches: bool


def require(module: Any, protocol: type[Required], needed_by: str) -> Required:
    """Reject a module that lacks members of a protocol, and otherwise return it with the protocol as its static type.

    Args:
        module: LightningModule or DataModule; None if a run has no DataModule.
        protocol: a protocol from this file.
        needed_by: name of the callback, for the error message.

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
    return [name for name in members(protocol) if not hasattr(thing, name)]


def members(protocol: type) -> list[str]:
    """List the members of a protocol, including inherited ones."""
    found = {name for each in protocol.__mro__ for name in (*vars(each).get("__annotations__", ()), *vars(each))}
    return sorted(name for name in found if not name.startswith("_"))


def require_data(trainer: Any, protocol: type[Required], needed_by: str) -> Required:
    """Reject a run if its DataModule lacks members of a protocol.

    Otherwise, return the DataModule with the protocol as its static type; see `require`.

    A user may pass a dataloader, or a DataModule from outside this project. In this case, if `OwnTrainingSet` has the
    members of the protocol, the dataset of the training dataloader is wrapped in `OwnTrainingSet` and used instead of
    the DataModule.
    """
    data = trainer.datamodule
    if not gives_positions(data) and not _missing(OwnTrainingSet, protocol):
        from lightning_modules.lightning_internals import loader_source

        source = loader_source(trainer.fit_loop)
        if source.instance is not None and source.is_defined():
            return OwnTrainingSet(source.dataloader())  # type: ignore[return-value]
    return require(data, protocol, needed_by)


def data_with(trainer: Any, protocol: type[Required]) -> Required | None:
    """Return the DataModule of a run if it has the members of a protocol, and otherwise None."""
    data = getattr(trainer, "datamodule", None)
    return data if isinstance(data, protocol) else None


def class_names(trainer: Any) -> Sequence[str] | None:
    """Return the K class names, or None if they are unknown."""
    data = data_with(trainer, NamedClasses)
    return None if data is None else data.class_names
