"""Segmentation metrics of a single structure: Dice and average surface distance, averaged over images."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection

from datamodules.batches import global_batch_size
from lightning_modules.interfaces import ImageColumn
from lightning_modules.tasks.segmenter import Segments


def dice(one: Tensor, other: Tensor) -> Tensor:
    """Compute the Dice coefficient 2 |A n B| / (|A| + |B|) of each pair of binary masks `[B, ...]`.

    The result has the shape `[B]`. It is 1 if both masks are empty.
    """
    one, other = one.flatten(start_dim=1).float(), other.flatten(start_dim=1).float()
    total = one.sum(dim=1) + other.sum(dim=1)
    return torch.where(total > 0, 2 * (one * other).sum(dim=1) / total.clamp(min=1), 1.0)


def average_surface_distance(prediction: Tensor, target: Tensor) -> Tensor:
    """Compute the mean distance between the border pixels of each mask and the nearest border pixel of the other mask:

        (sum_{a in dA} d(a, dB) + sum_{b in dB} d(b, dA)) / (|dA| + |dB|)

    A border pixel is a pixel of the mask with at least one of its four neighbours outside the mask or outside the
    image.

    Args:
        prediction: predicted mask A, `[H, W]`, bool.
        target: true mask B, `[H, W]`, bool.

    Returns:
        Distance in pixels. It is 0 if both masks are empty, and the image diagonal if only one mask is empty.
    """
    from scipy import ndimage

    masks = [mask.cpu().numpy() for mask in (prediction, target)]
    filled = [mask.any() for mask in masks]
    if not all(filled):
        height, width = prediction.shape
        return torch.tensor((height**2 + width**2) ** 0.5 if any(filled) else 0.0, dtype=torch.float64)
    first, second = (mask & ~ndimage.binary_erosion(mask) for mask in masks)
    to_second, to_first = (ndimage.distance_transform_edt(~border) for border in (second, first))
    total = to_second[first].sum() + to_first[second].sum()
    return torch.tensor(total / (first.sum() + second.sum()), dtype=torch.float64)


class MeanOverImages(MeanMetric):
    """Mean of per-image values, accumulated in float64 so that the mean does not depend on how images are batched."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.set_dtype(torch.float64)

    def compute(self) -> Tensor:
        return super().compute().float()


class MeanDice(MeanOverImages):
    """Mean of `dice` over images; an image whose two masks are empty counts as 1."""

    higher_is_better = True  # type: ignore[assignment]

    def update(self, prediction: Tensor, target: Tensor) -> None:  # type: ignore[override]
        """Add a batch of predicted and true binary masks, `[B, H, W]`."""
        super().update(dice(prediction, target))


class AverageSurfaceDistance(MeanOverImages):
    """Mean of `average_surface_distance` over images, in pixels."""

    higher_is_better = False  # type: ignore[assignment]

    def update(self, prediction: Tensor, target: Tensor) -> None:  # type: ignore[override]
        """Add a batch of predicted and true binary masks, `[B, H, W]`."""
        pairs = zip(prediction.bool().cpu(), target.bool().cpu(), strict=True)
        super().update(torch.stack([average_surface_distance(one, other) for one, other in pairs]))


def measures() -> MetricCollection:
    """Create a collection of the metrics `MeanDice` and `AverageSurfaceDistance`."""
    return MetricCollection({"dice": MeanDice(), "surface_distance": AverageSurfaceDistance()}, compute_groups=False)


class StructureSteps(Segments):
    """Mixin with validation, test and prediction steps for the segmentation of a single structure.

    A subclass implements `forward`, sets `metrics = measures()`, and has an attribute `kept`: the mask of the labels
    that are used in training. If `pseudo_label_metrics` is not None, the labels returned by `first_label(batch)` are
    also evaluated, and their metrics have the prefix `pseudo_label_`.
    """

    metrics: MetricCollection
    pseudo_label_metrics: MetricCollection | None

    def validation_step(self: Any, batch: dict[str, Any], batch_idx: int) -> None:
        self._measure(batch, "val")

    def test_step(self: Any, batch: dict[str, Any], batch_idx: int) -> None:
        self._measure(batch, "test")

    def _measure(self: Any, batch: dict[str, Any], stage: str) -> None:
        truth = (batch["label"] == 1).long()
        pairs = [("", self.metrics, self(batch["image"]).argmax(dim=1))]
        if self.pseudo_label_metrics is not None:
            pairs.append(("pseudo_label_", self.pseudo_label_metrics, self.first_label(batch)))
        for prefix, metrics, prediction in pairs:
            metrics.update(prediction, truth)
            for name, metric in metrics.items():
                key = f"{stage}/{prefix}{name}"
                self.log(key, metric, on_step=False, on_epoch=True, batch_size=global_batch_size(batch))

    def image_columns(self: Any, batch: dict[str, Any], outputs: Any) -> dict[str, Tensor | ImageColumn]:
        """Return images, pseudo labels marked as kept or rejected, predictions and, if known, the ground truth."""
        kept = self.kept.to(batch["index"].device)[batch["index"]]
        captions = ["kept" if each else "rejected" for each in kept]
        columns: dict[str, Tensor | ImageColumn] = {
            "image": batch["image"].float(),
            "pseudo label": ImageColumn(batch["label"], captions, (~kept).tolist()),
            "prediction": self.segment(batch["image"]),
        }
        return columns | ({"truth": batch["clean_label"]} if "clean_label" in batch else {})
