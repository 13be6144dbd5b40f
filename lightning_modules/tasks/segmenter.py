"""Validation, test and prediction steps of all segmenters.

The metrics of a category k are computed from the pixels of all images on all ranks, except ignored pixels. Let TP be
the number of pixels correctly predicted as k, P the number of pixels predicted as k, and T the number of pixels whose
true category is k. The metrics are

    IoU_k = TP / (P + T - TP),        Dice_k = 2 TP / (P + T).

Means are computed over all categories that occur in the true masks or in the predictions (P + T > 0), including the
background.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix

from datamodules.batches import IGNORED
from lightning_modules.interfaces import Exported, ExportedInput, ImageColumn, class_names, refuse_sigma
from lightning_modules.training.evaluation_mode import evaluate_without_gradients
from lightning_modules.training.logging import log_same
from lightning_modules.training.own_loaders import OwnLoaders


def confusion(num_classes: int) -> MulticlassConfusionMatrix:
    """Create the metric that counts pixels in a confusion matrix, `[K, K]`, of true and predicted categories."""
    return MulticlassConfusionMatrix(num_classes, ignore_index=IGNORED, validate_args=False)


def iou_and_dice(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the overlap between true and predicted pixels for each category.

    Args:
        counts: numbers of pixels, `[..., K, K]`. Rows are true categories, and columns are predicted categories.

    Returns:
        IoU and Dice, both `[..., K]`, float64 in [0, 1]. They are NaN for categories that occur neither in the true
        masks nor in the predictions.
    """
    counts = counts.double()
    both, predicted, true = counts.diagonal(dim1=-2, dim2=-1), counts.sum(dim=-2), counts.sum(dim=-1)
    return both / (predicted + true - both), 2 * both / (predicted + true)


class Segments:
    """Mixin with the prediction step of a module whose `forward` maps images to logits `[B, K, H, W]`."""

    @evaluate_without_gradients
    def segment(self: Any, image: Tensor) -> Tensor:
        """Predict the category of each pixel, `[B, H, W]` in int64, of images `[B, C, H, W]`, scaled as in training.

        Examples:
            >>> from lightning_modules.baselines.segmentation_cross_entropy import SegmentationCrossEntropy
            >>> model = SegmentationCrossEntropy(torch.nn.Conv2d(3, 5, 3, padding=1), num_classes=5)
            >>> model.segment(torch.full((2, 3, 8, 8), 0.5)).shape
            torch.Size([2, 8, 8])
        """
        return self(image).argmax(dim=1)

    def predict_step(self: Any, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Return a dict with `index`, `[B]`, and `prediction`, `[B, H, W]`, uint8."""
        return {"index": batch["index"], "prediction": self.segment(batch["image"]).to(torch.uint8)}


class SegmenterSteps(Segments, OwnLoaders):
    """Mixin with the validation, test and prediction steps of a LightningModule that segments images.

    The module defines `forward`, and has the attributes `num_classes` and `metrics = confusion(num_classes)`. Each
    epoch logs `miou` and `dice`, which are averages over categories, and `cross_entropy`, which is an average over all
    pixels that are not ignored. `iou_<category>` and `dice_<category>` are also logged, for each category that occurs.
    Here, `<category>` is the name of the category if the DataModule has `class_names`, and its index otherwise.
    """

    num_classes: int
    metrics: MulticlassConfusionMatrix

    def validation_step(self: Any, batch: dict[str, Any], batch_idx: int) -> None:
        self._measure(batch, "val")

    def test_step(self: Any, batch: dict[str, Any], batch_idx: int) -> None:
        self._measure(batch, "test")

    def _measure(self: Any, batch: dict[str, Any], stage: str) -> None:
        logits, label = self(batch["image"]), batch["label"]
        self.metrics.update(logits.argmax(dim=1), label)
        pixels = int((label != IGNORED).sum())
        total = nn.functional.cross_entropy(logits, label, ignore_index=IGNORED, reduction="sum")
        # Lightning all-reduces the sums and the pixel counts before dividing, so that the result is the mean over all
        # pixels.
        loss = total / max(pixels, 1)
        self.log(f"{stage}/cross_entropy", loss, on_step=False, on_epoch=True, batch_size=pixels, sync_dist=True)

    def on_validation_epoch_end(self: Any) -> None:
        self._log_overlaps("val")

    def on_test_epoch_end(self: Any) -> None:
        self._log_overlaps("test")

    def _log_overlaps(self: Any, stage: str) -> None:
        iou, dice = iou_and_dice(self.metrics.compute())
        self.metrics.reset()
        scores = {"miou": iou.nanmean(), "dice": dice.nanmean()}
        names = class_names(self.trainer) or range(self.num_classes)
        for measure, values in (("iou", iou), ("dice", dice)):
            scores |= {f"{measure}_{name}".replace(" ", "_"): value for name, value in zip(names, values, strict=True)}
        for key, value in scores.items():
            if not value.isnan():
                log_same(self, f"{stage}/{key}", float(value))

    def image_columns(self: Any, batch: dict[str, Any], outputs: Any) -> dict[str, Tensor | ImageColumn]:
        """Return images, true masks (if known), annotated or corrected masks, and predictions.

        The values of each image are rescaled to [0, 1].
        """
        low, high = (
            extreme(batch["image"].float(), dim=(1, 2, 3), keepdim=True) for extreme in (torch.amin, torch.amax)
        )
        label = "corrected label" if "original_label" in batch else "label"
        masks = {"true label": "clean_label", "given label": "original_label", label: "label"}
        return {
            "image": (batch["image"].float() - low) / (high - low).clamp(min=1e-6),
            **{name: batch[key] for name, key in masks.items() if key in batch},
            "prediction": self.segment(batch["image"]),
        }

    def export_function(self: Any, sigma: float | None = None) -> Exported:
        """Export, as a function, the probabilities of the categories at each pixel. See `interfaces.Exportable`."""
        refuse_sigma(sigma, self)
        return Exported(
            "segmenter",
            lambda image: self(image).float().softmax(dim=1),
            {"image": ExportedInput("B C H W", description="images, scaled as in training")},
            "probabilities",
            "B K H W",
            "probabilities of the categories at each pixel",
        )
