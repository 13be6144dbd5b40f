"""Class-incremental learning with the Gaussians of a frozen classifier.

A classifier is trained on the base classes 0 ... C_0 - 1. New classes are then added one at a time, in the order of
their labels, without changing the network. A new class with the features f_i adds a mean, and updates the shared
covariance (algorithm 2):

    mu_{C+1} = (1/n) sum_i f_i,      S = (1/n) sum_i (f_i - mu_{C+1}) (f_i - mu_{C+1})^T,
    Sigma <- C/(C+1) Sigma + 1/(C+1) S,      C <- C + 1.

The prediction is argmin_c d_c. The baseline uses the Euclidean distance (Sigma = I). Either distance can favour the
base classes or the new classes. A bias b is therefore added to the scores of the new classes. As b increases, the
accuracy on images of new classes increases, and the accuracy on images of base classes decreases. The metric is the
area under the curve of these two accuracies.

Source: Lee, Lee, Lee and Shin, A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial
Attacks, NeurIPS 2018, arXiv 1807.03888, section 3.3 and algorithm 2.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.arguments import one_of, within
from datamodules.batches import LabelledImageBatch, global_batch_size, loss_weight
from datamodules.distributed.collectives import all_reduce_sum
from lightning_modules.full_precision import in_full_precision
from lightning_modules.interfaces import Table
from lightning_modules.method_module import MethodModule
from lightning_modules.metrics.collected import Collected
from lightning_modules.robustness.mahalanobis.frozen_network import StreamsStatistics, frozen_for_statistics
from lightning_modules.robustness.mahalanobis.gaussians import (
    ClassGaussians,
    Whitened,
    class_means,
    mahalanobis_distances,
    whiten,
)
from lightning_modules.robustness.mahalanobis.layers import layer_features, named_layers, num_features
from lightning_modules.tasks.classifier import ClassifierSteps, accuracies
from lightning_modules.training.logging import log_same

IncrementalClassifier = Literal["mahalanobis", "euclidean"]
CLASSIFIERS: tuple[IncrementalClassifier, ...] = ("mahalanobis", "euclidean")


def area_over_bias(scores: Tensor, label: Tensor, num_base_classes: int) -> Tensor:
    """Compute the area under the curve of base-class accuracy against new-class accuracy, over all biases b.

    The margin of an image is the best score of a base class minus the best score of a new class. An image of a base
    class is classified correctly if its class has the best score among the base classes, and if b is below the margin.
    An image of a new class is classified correctly if its class has the best score among the new classes, and if b is
    above the margin. Consider all pairs of one image of a base class and one image of a new class. The area is the
    fraction of these pairs that satisfy two conditions: the class of each image has the best score in its group, and
    the margin of the image of the base class exceeds the margin of the image of the new class. A pair with equal
    margins counts as one half.

    Args:
        scores: scores of the classes, `[N, C]`; a higher score means a more likely class.
        label: `[N]`, int64; there must be images of base classes and of new classes.
        num_base_classes: number C_0 of base classes.
    """
    base, new = scores[:, :num_base_classes].max(dim=1), scores[:, num_base_classes:].max(dim=1)
    margin, is_new = base.values - new.values, label >= num_base_classes
    right = torch.where(is_new, new.indices + num_base_classes, base.indices) == label
    above, below = margin[~is_new & right, None], margin[is_new & right]
    ordered = (above > below).sum() + 0.5 * (above == below).sum()
    return ordered.to(scores) / ((~is_new).sum() * is_new.sum())


def class_scores(features: Tensor, whitened: Whitened) -> Tensor:
    """Compute the scores -d_c / 2 of the classes, `[B, C]`, from features `[B, d]`."""
    return -0.5 * mahalanobis_distances(features, whitened)


class IncrementalGaussians(ClassGaussians):
    """Streaming estimates of the class means, the covariance of all base classes, and the covariance of each new class.

    Args:
        num_classes: number of base and new classes.
        num_base_classes: number C_0 of base classes; their labels come first.
        num_features: number d of features of the layer.
    """

    group: Tensor
    """`[G, K]`, 1 if the class is in the group, else 0. All base classes are one group; each new class is a group."""

    def __init__(self, num_classes: int, num_base_classes: int, num_features: int) -> None:
        super().__init__(num_classes, [num_features])
        self.num_base_classes = num_base_classes
        groups = (torch.arange(num_classes) - num_base_classes + 1).clamp(min=0)
        rows = torch.arange(num_classes - num_base_classes + 1)[:, None]
        self.register_buffer("group", (rows == groups).double(), persistent=False)
        self.scatter = torch.zeros(len(self.group), num_features, num_features, dtype=torch.float64)

    @torch.no_grad()
    def update(self, features: Any, label: Tensor) -> None:
        """Add a global batch, as in `ClassGaussians.update`. There is only one layer, so `features` has one element."""
        (part,) = (each.double() for each in features)
        count, mean = class_means(part, label, len(self.count))
        centred, member = part - mean[label], self.group[:, label]
        scatter = all_reduce_sum(torch.stack([(centred.T * rows) @ centred for rows in member]))
        total = self.count + count
        new = count / total.clamp(min=1)
        shift = torch.where(count[:, None] > 0, mean - self.mean, 0.0)
        moved = torch.stack([(shift.T * (self.count * new * rows)) @ shift for rows in self.group])
        self.scatter += scatter + moved
        self.mean += new[:, None] * shift
        self.count.copy_(total)

    def after(self, number: int) -> tuple[Tensor, Tensor]:
        """Return the means `[number, d]` and Sigma `[d, d]` after the first `number` classes."""
        sizes = (self.group * self.count).sum(dim=1)
        covariance = self.scatter[0] / sizes[0]
        for group, C in enumerate(range(self.num_base_classes, number), start=1):
            covariance = (C * covariance + self.scatter[group] / sizes[group]) / (C + 1)
        return self.mean[:number], covariance


class ClassIncremental(StreamsStatistics, ClassifierSteps, MethodModule):
    """Add new classes to a trained classifier without training.

    `fit` trains no parameters: it computes statistics in one pass over the training images of all classes, and further
    epochs have no effect. The statistics of a class depend only on the images of this class. The result is therefore
    the same as if the classes arrived one at a time. For both distances, `test` logs `test/area_<classifier>`, the area
    under the accuracy curve after the last class has been added. The area after each added class is written to a table.
    `test/accuracy` is the accuracy over all classes for the distance `classifier`, without a bias.

    Args:
        base_classifier: classifier of the base classes, which maps images `[B, C, H, W]` in [0, 1] to logits.
        num_classes: number K of base and new classes.
        num_base_classes: number C_0 of base classes, which have the labels 0 ... C_0 - 1.
        layer: name of the module whose output provides the features, usually the module before the last linear layer.
        image_shape: numbers of channels, rows and columns of an image.
        classifier: distance used for predictions and `test/accuracy`: `mahalanobis`, or the baseline `euclidean`.
    """

    def __init__(
        self,
        base_classifier: nn.Module,
        num_classes: int,
        num_base_classes: int,
        layer: str,
        image_shape: tuple[int, int, int],
        classifier: IncrementalClassifier = "mahalanobis",
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        one_of(CLASSIFIERS, classifier=classifier)
        within(1, num_classes - 1, num_base_classes=num_base_classes)
        self.base_classifier = frozen_for_statistics(base_classifier)
        self.num_classes = num_classes
        self.num_base_classes = num_base_classes
        self.layers = named_layers(base_classifier, [layer], [])
        (width,) = num_features(base_classifier, self.layers, image_shape)
        self.gaussians = IncrementalGaussians(num_classes, num_base_classes, width)
        self.classifier = classifier
        self.metrics = accuracies(num_classes)
        self.collected = Collected()
        self.tables: dict[str, Table] = {}

    @property
    def encoder(self) -> nn.Module:
        return self.base_classifier

    def features(self, image: Tensor) -> Tensor:
        """Compute features `[B, d]` in float64."""
        with torch.no_grad(), in_full_precision(self.device):
            return layer_features(self.base_classifier, self.layers, image)[1][0].double()

    def whitening(self, number: int, classifier: IncrementalClassifier) -> Whitened:
        """Return the whitening after the first `number` classes; for the Euclidean distance, Sigma is I."""
        mean, covariance = self.gaussians.after(number)
        if classifier == "euclidean":
            covariance = torch.eye(len(covariance)).to(covariance)
        return whiten(mean, covariance, mean.new_ones(number, dtype=torch.bool))

    def forward(self, image: Tensor) -> Tensor:
        """Compute the scores `[B, K]` of all classes, as logits."""
        return class_scores(self.features(image), self.whitening(self.num_classes, self.classifier)).to(image.dtype)

    def training_step(self, batch: LabelledImageBatch, batch_idx: int) -> dict[str, Tensor]:
        label, C = batch["label"], self.num_base_classes
        with torch.no_grad(), in_full_precision(self.device):
            logits, features = layer_features(self.base_classifier, self.layers, batch["image"])
            self.gaussians.update(features, label)
            error = F.cross_entropy(logits[:, :C], label.clamp(max=C - 1), reduction="none") * (label < C)
        loss, size = loss_weight(batch) * error.mean(), global_batch_size(batch)
        self.log("train/cross_entropy", loss, on_step=False, on_epoch=True, batch_size=size, sync_dist=True)
        self.optimizers().step()  # type: ignore[union-attr]
        return {"loss": loss}

    def on_test_start(self) -> None:
        if not bool((self.gaussians.count > 0).all()):
            raise ValueError("some classes have no statistics: run fit first, with training images of all classes")
        self.collected.reset()
        self._all_classes = self.whitening(self.num_classes, self.classifier)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        features, label = self.features(batch["image"]), batch["label"]
        logits = class_scores(features, self._all_classes).to(batch["image"].dtype)
        self._log_measures(logits, batch, "test")
        self.collected.update(batch["index"], torch.cat([label[:, None], features], dim=1))
        return {"logits": logits}

    def on_test_epoch_end(self) -> None:
        rows = self.collected.compute()[1].to(self.device)  # they are collected on the CPU
        label, features = rows[:, 0].long(), rows[:, 1:]
        table: dict[str, list[Any]] = {"classes": [], "classifier": [], "area": []}
        for classifier in CLASSIFIERS:
            for number in range(self.num_base_classes + 1, self.num_classes + 1):
                arrived = label < number
                scored = class_scores(features[arrived], self.whitening(number, classifier))
                area = float(area_over_bias(scored, label[arrived], self.num_base_classes))
                for key, value in zip(table, (number, classifier, area), strict=True):
                    table[key].append(value)
            log_same(self, f"test/area_{classifier}", area)
        self.tables = {"class_incremental": Table(table)}
