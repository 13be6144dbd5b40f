"""What callbacks and DataModules may know about a module: small protocols, checked when a run is set up.

The two labels of `datamodules.batches` that stand for no class are here, too, for callbacks.
"""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.batches import IGNORED as IGNORED
from datamodules.batches import UNVERIFIED as UNVERIFIED

Required = TypeVar("Required")


@runtime_checkable
class Classifier(Protocol):
    """Maps images `[B, C, H, W]` in [0, 1] to logits `[B, K]`. Used by certification, attacks, detectors, early
    learning."""

    num_classes: int

    def forward(self, image: Tensor) -> Tensor: ...


@runtime_checkable
class Segmenter(Protocol):
    """Maps images `[B, C, H, W]` to logits `[B, K, H, W]`. Used by early learning per category."""

    num_classes: int

    def forward(self, image: Tensor) -> Tensor: ...


@runtime_checkable
class Denoiser(Protocol):
    """Estimates the clean image, in [0, 1], from one with Gaussian noise of standard deviation sigma. What measures
    denoisers may ask for this and no more."""

    def denoise(self, noisy: Tensor, sigma: float | Tensor | None = None) -> Tensor: ...


@runtime_checkable
class Generator(Protocol):
    """Draws n images in [0, 1]. What measures generators may ask for this and no more."""

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor: ...


@runtime_checkable
class SmoothedClassifier(Protocol):
    """A module whose smoothed classifier is not simply its `forward` under noise: several votes, or another radius.

    Certification calls it in place of `forward(image + sigma * noise)` and sigma Phi^-1(p).
    """

    certificate: str
    """The theorem that the radius rests on, or `...: not a guarantee` of a formula that proves nothing. Logs of
    different ones are never mixed."""

    def smoothed_logits(self, image: Tensor, noise: Tensor, sigma: float) -> Tensor:
        """Logits `[S, B, K]` of S votes on each draw; the smoothed classifier adds the votes.

        `image` and `noise`, standard normal, are `[B, C, H, W]` in float32 and read only. A vote may depend on them
        only through image + s noise with s >= sigma, or through part of that.
        """
        ...

    def certified_radius(self, probability: Sequence[float], sigma: float) -> float:
        """Radius in pixel units, negative for none, if each vote gives the class at least its `probability`.

        It must not fall when a probability rises.
        """
        ...


@runtime_checkable
class LabelCorrector(Protocol):
    """A module that acts when early learning has ended for some categories (all processes call it with the same
    ones)."""

    def on_early_learning_end(self, categories: list[int], epoch: int) -> None: ...


@runtime_checkable
class EarlyLearningFollower(Protocol):
    """A module that acts after each epoch's test, also on categories for which early learning had ended before.

    All processes call it at the end of every training epoch, with the categories whose curve says now that early
    learning has ended; after `on_early_learning_end` of the same epoch.
    """

    def on_early_learning_tested(self, categories: list[int], epoch: int) -> None: ...


@runtime_checkable
class LabelStore(Protocol):
    """A DataModule whose training labels can be corrected; loader workers see the corrections from the next epoch.

    Training batches then carry the labels that were given as `original_label`. Where there are several processes, all
    of them call `correct_labels` equally often, each with samples of its own, or with none: they exchange them there,
    and every process sees all corrections.
    """

    def correct_labels(self, index: Tensor, label: Tensor) -> None: ...


@runtime_checkable
class TrainingImageSource(Protocol):
    """A DataModule that also gives its training images as they are, to judge their labels by."""

    def training_images_dataloader(self) -> DataLoader:
        """Batches in the images' own order and without augmentation; each process gets its share."""
        ...


@runtime_checkable
class ShiftedTestSets(Protocol):
    """A DataModule with test sets that are distributed differently from its training set."""

    def check_shifted_tests(self) -> None:
        """Raises what `shifted_test_loaders` would, if there is no set, or one is missing or damaged, without looking
        at its images."""
        ...

    def shifted_test_loaders(self) -> dict[str, Any]:
        """A loader for each by name; batches may say, as `classes`, that a set has only some of the classes."""
        ...


@runtime_checkable
class FeatureSpectra(Protocol):
    """A module that measures the singular values of features in a test."""

    spectra: dict[str, Tensor]
    """After a test: singular values in descending order, by the name of the features; the same on all processes."""


@runtime_checkable
class Detector(Protocol):
    """A module that tells out-of-distribution or adversarial inputs from in-distribution ones."""

    detections: Sequence[Any]
    """After testing, for each set a `lightning_modules.metrics.detection.Detection`."""
    score: str
    """The method among them that is the detector's own."""


def require(module: Any, protocol: type[Required], needed_by: str) -> Required:
    """Refuse a module that lacks what a callback needs, and return it typed.

    Args:
        module: the LightningModule or DataModule; None where a run has no DataModule.
        protocol: one of this file's.
        needed_by: who asks, for the message.

    Returns:
        The module itself.

    Raises:
        TypeError: names the module, the protocol and the members that are missing.
    """
    members = [name for name in {*protocol.__annotations__, *vars(protocol)} if not name.startswith("_")]
    missing = sorted(name for name in members if not hasattr(module, name))
    if missing:
        name = "a run without a DataModule" if module is None else type(module).__name__
        raise TypeError(f"{needed_by} needs a {protocol.__name__}, and {name} lacks {', '.join(missing)}")
    return module
