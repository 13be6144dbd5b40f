"""Quality measures for single images: any torchmetrics image metric, and LPIPS with local weights."""

import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from datamodules.files.limits import sentence
from lightning_modules.backbones.weights import read_weights
from lightning_modules.metrics.image_quality import EvaluationProtocol, Measure, as_measured


def in_range(image: Tensor, clean: Tensor, protocol: EvaluationProtocol) -> list[Tensor]:
    """Clip images to [0, 1] for perceptual metrics, and convert them to float32.

    With the protocol `rounded`, images are also rounded.
    """
    kept: EvaluationProtocol = "rounded" if protocol == "rounded" else "clipped"
    return [as_measured(each, kept).float() for each in (image, clean)]


PLACES = {"slice1.0": 0, "slice2.3": 3, "slice3.6": 6, "slice4.8": 8, "slice5.10": 10}
"""Names of the convolutions in torchmetrics' network, and their indices in torchvision's AlexNet."""


class LPIPS:
    """Learned perceptual image patch similarity (LPIPS) 0.1 with AlexNet and local weights; 0 for equal images.

    With the published weights, the distances of two of the authors' three example images from the third are 0.7219 and
    0.1376; the authors report 0.722 and 0.138.

    Source: Zhang, Isola, Efros, Shechtman and Wang, The Unreasonable Effectiveness of Deep Features as a Perceptual
    Metric, CVPR 2018, arXiv 1801.03924.

    Args:
        weights: safetensors file with the weights of five convolutions and of the linear heads. The convolutions are
            named `features.<i>.weight` and `.bias` as in torchvision, and the heads `lin<i>.model.1.weight` as in the
            package `lpips`.
    """

    def __init__(self, weights: str) -> None:
        # torchmetrics' public class downloads weights.
        from torchmetrics.functional.image.lpips import _LPIPS

        path = Path(weights).expanduser()
        if not path.is_file():
            raise FileNotFoundError(
                f"lpips_weights {path} does not exist: give a safetensors file of LPIPS with AlexNet"
            )
        given = read_weights(path)
        for ours, theirs in PLACES.items():
            for kind in ("weight", "bias"):
                if f"features.{theirs}.{kind}" in given:
                    given[f"net.{ours}.{kind}"] = given.pop(f"features.{theirs}.{kind}")
        heads = {key: tensor for key, tensor in given.items() if key.startswith("lin")}
        given |= {
            f"lins.{key.removeprefix('lin')}": tensor for key, tensor in heads.items()
        }  # torchmetrics registers them under two names
        self.network: nn.Module = _LPIPS(pretrained=False, net="alex", pnet_rand=True)
        try:
            self.network.load_state_dict(given)
        except RuntimeError as error:
            raise ValueError(
                f"lpips_weights {path} does not contain the weights of LPIPS with AlexNet: {sentence(error)}"
            ) from None

    def __call__(self, image: Tensor, clean: Tensor, protocol: EvaluationProtocol) -> Tensor:
        """Compute each image's distance, `[B]`. Images are clipped, and grey images are repeated to three channels."""
        self.network.to(image.device)
        pair = in_range(image, clean, protocol)
        first, second = (each.expand(-1, 3, -1, -1) if each.shape[1] == 1 else each for each in pair)
        with torch.no_grad():
            return (
                self.network(first, second, normalize=True)
                .flatten()
                .to(torch.promote_types(image.dtype, torch.float32))
            )


OF_SETS = {"InceptionScore", "PerceptualPathLength"}
"""Metrics of torchmetrics that measure sets of images, although their `update` looks like that for single images."""


class MeasuredByMetric:
    """A measure of single images that is computed by a torchmetrics image metric.

    Metrics that compare two images receive the estimate and the clean image. No-reference metrics receive only the
    estimate.

    Args:
        name: name of the measure, for error messages.
        metric: metric that is computed for each image.
    """

    def __init__(self, name: str, metric: Metric) -> None:
        parameters = list(inspect.signature(type(metric).update).parameters.values())[1:]
        needed = [each.name for each in parameters if each.default is each.empty and each.kind is not each.VAR_KEYWORD]
        if not 1 <= len(needed) <= 2 or "real" in needed or type(metric).__name__ in OF_SETS:
            raise ValueError(
                f"metrics: {type(metric).__name__} does not measure single images: its update must take an image, or "
                f"an image and its reference (for FID, KID and IS use callbacks.generation.FID)"
            )
        self.name = name
        self.metric = metric
        self.with_reference = len(needed) == 2
        metric.distributed_available_fn = (
            no_synchronisation  # each rank measures its own images; rows are gathered later
        )

    def __call__(self, image: Tensor, clean: Tensor, protocol: EvaluationProtocol) -> Tensor:
        """Measure images one at a time, `[B]`. A whole batch would be averaged by the torchmetrics metric."""
        self.metric.to(image.device)
        pair = in_range(image, clean, protocol)[: 1 + self.with_reference]
        return torch.stack([self._of_one(*one) for one in zip(*(each.split(1) for each in pair), strict=True)])

    def _of_one(self, *images: Tensor) -> Tensor:
        called = f"metrics: {self.name} ({type(self.metric).__name__})"
        self.metric.reset()
        try:
            self.metric.update(*images)
            value = self.metric.compute()
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            shape = list(images[0].shape[1:])
            raise ValueError(f"{called} cannot measure an image of shape {shape}: {sentence(error)}") from error
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise ValueError(f"{called} must give one number per image: set its reduction to a mean")
        return value.detach().reshape(())


def no_synchronisation() -> bool:
    """Return false, so that a metric assumes a single rank and does not synchronise."""
    return False


def measures_of(metrics: Sequence[Metric] | Mapping[str, Metric], taken: Sequence[str]) -> dict[str, Measure]:
    """Return measures by name. A name is the metric's key in a mapping, or else the metric's class name in snake case.

    Args:
        metrics: torchmetrics image metrics.
        taken: names that other measures already use.
    """
    if isinstance(metrics, Mapping):
        named = list(metrics.items())
    else:
        named = [(snake_case(type(one).__name__), one) for one in metrics]
    names = [*taken, *(name for name, _ in named)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(
            f"metrics: two metrics are called {twice}; give them names, as in {{my_{twice}: {{class_path: ...}}}}"
        )
    if strange := next((name for name, _ in named if not re.fullmatch(r"\w+", name)), None):
        raise ValueError(f"metrics: names must consist of letters, digits and underscores, got {strange!r}")
    return {name: MeasuredByMetric(name, metric) for name, metric in named}


def snake_case(name: str) -> str:
    """Write a class name in snake case: `TotalVariation` as `total_variation`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
