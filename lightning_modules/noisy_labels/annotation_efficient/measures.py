"""Agreement of two masks of one structure, their Dice and the distance of their surfaces, and its means over images."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection

from datamodules.batches import global_batch_size
from lightning_modules.interfaces import ImageColumn


def dice(one: Tensor, other: Tensor) -> Tensor:
    """Compute 2 |A n B| / (|A| + |B|) of masks `[B, ...]` that are 0 and 1: `[B]`, 1 of two empty masks."""
    one, other = one.flatten(start_dim=1).float(), other.flatten(start_dim=1).float()
    total = one.sum(dim=1) + other.sum(dim=1)
    return torch.where(total > 0, 2 * (one * other).sum(dim=1) / total.clamp(min=1), 1.0)


def average_surface_distance(prediction: Tensor, target: Tensor) -> Tensor:
    """Average the distances of the border pixels of either mask to the nearest border pixel of the other one.

        (sum_{a in dA} d(a, dB) + sum_{b in dB} d(b, dA)) / (|dA| + |dB|)

    A border pixel belongs to the mask and has one of its four neighbours outside; beyond the image is outside.

    Args:
        prediction: A, `[H, W]`, bool.
        target: B, `[H, W]`, bool.

    Returns:
        A number in pixels: 0 of two empty masks, the image's diagonal where one is empty.
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
    """Average a number of each image, summed in float64, so that the mean does not depend on batches."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.set_dtype(torch.float64)

    def compute(self) -> Tensor:
        return super().compute().float()


class MeanDice(MeanOverImages):
    """Average `dice` over images; an image that is empty in both masks counts as 1."""

    higher_is_better = True  # type: ignore[assignment]

    def update(self, prediction: Tensor, target: Tensor) -> None:  # type: ignore[override]
        """Take masks `[B, H, W]` that are 0 and 1."""
        super().update(dice(prediction, target))


class AverageSurfaceDistance(MeanOverImages):
    """Average `average_surface_distance` over images, in pixels."""

    higher_is_better = False  # type: ignore[assignment]

    def update(self, prediction: Tensor, target: Tensor) -> None:  # type: ignore[override]
        """Take masks `[B, H, W]` that are 0 and 1."""
        pairs = zip(prediction.bool().cpu(), target.bool().cpu(), strict=True)
        super().update(torch.stack([average_surface_distance(one, other) for one, other in pairs]))


def measures() -> MetricCollection:
    """Make metrics for the mean Dice of the structure over images and the mean surface distance in pixels."""
    return MetricCollection({"dice": MeanDice(), "surface_distance": AverageSurfaceDistance()}, compute_groups=False)


class StructureSteps:
    """Give a LightningModule of a structure's masks its validation, test and prediction steps.

    The module says what `forward` is, owns `metrics = measures()`, and knows by `kept` which labels it trains on. Where
    it has `pseudo_label_metrics`, the labels that its `first_label(batch)` makes are measured, too, with the prefix
    `pseudo_label_`.
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

    def predict_step(self: Any, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Return `index` `[B]` and `prediction` `[B, H, W]`, uint8."""
        return {"index": batch["index"], "prediction": self(batch["image"]).argmax(dim=1).to(torch.uint8)}

    def image_columns(self: Any, batch: dict[str, Any], outputs: Any) -> dict[str, Tensor | ImageColumn]:
        """Show images, their pseudo labels with whether they are kept, the prediction and, where known, the truth."""
        kept = self.kept.to(batch["index"].device)[batch["index"]]
        captions = ["kept" if each else "rejected" for each in kept]
        columns: dict[str, Tensor | ImageColumn] = {
            "image": batch["image"].float(),
            "pseudo label": ImageColumn(batch["label"], captions, (~kept).tolist()),
            "prediction": self(batch["image"]).argmax(dim=1),
        }
        return columns | ({"truth": batch["clean_label"]} if "clean_label" in batch else {})
