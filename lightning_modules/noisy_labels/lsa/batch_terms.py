"""Compute the terms of a step's loss on this process's share of a batch."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from datamodules.distributed.world import world_size
from lightning_modules.backbones.layer_features import logits_and_features
from lightning_modules.distributed.global_rows import global_rows, global_sum
from lightning_modules.full_precision import at_least_float32
from lightning_modules.losses.mixing import Mixing
from lightning_modules.noisy_labels.lsa.objective import (
    confident_same_class,
    contrast,
    same_class,
    uniformity_penalty,
    weighted_cross_entropy,
)


@dataclass(frozen=True)
class MixedBatch:
    """A batch of mixed images with their predictions and targets, `[b, ...]`."""

    logits: Tensor
    """z, `[b, C]`: predictions for the mixed images."""
    target: Tensor
    """t, `[b, C]`: targets of the images before they are mixed."""
    weight: Tensor
    """u, `[b]`: weights of the images before they are mixed."""
    index: Tensor
    """`[b]`: position of each image in the training set."""
    mixing: Mixing
    global_batch_size: int
    """B, images of the batch over all processes."""

    def classification(self) -> Tensor:
        """Compute cls; its mean over processes is cls of the whole batch."""
        own, partners = self.mixing.weight, self.mixing.partners
        total = global_sum(self.weight.sum())
        first = weighted_cross_entropy(self.logits, self.target, self.weight, total)
        second = weighted_cross_entropy(self.logits, partners(self.target), partners(self.weight), total)
        return world_size() * (own * first + (1 - own) * second)

    def penalty(self) -> Tensor:
        """Compute pen of the mean prediction over all processes."""
        p = at_least_float32(self.logits).softmax(dim=1)
        return uniformity_penalty(global_sum(p.sum(dim=0)) / self.global_batch_size)

    def contrastive(self, projection: Tensor, other: Tensor, temperature: float, confidence: bool) -> Tensor:
        """Compute con: each image is compared with the other views of the whole batch.

        Args:
            projection: h of the mixed images, `[b, D]`.
            other: h' of another view of each image, `[b, D]`.
            temperature: mu.
            confidence: take the term of PLS in place of LSA's.
        """
        others = global_rows(other, self.global_batch_size)
        if confidence:
            category = self.mixing(self.target).argmax(dim=1)
            own = category, self.weight, self.index
            positives = confident_same_class(*own, *(global_rows(each, self.global_batch_size) for each in own))
            rows = contrast(projection, others, self.mixing(positives), temperature)
        else:
            category = self.target.argmax(dim=1)
            positives = same_class(category, global_rows(category, self.global_batch_size))
            kept, theirs = self.mixing.weight, self.mixing.partners(positives)
            rows = kept * contrast(projection, others, positives, temperature)
            rows = rows + (1 - kept) * contrast(projection, others, theirs, temperature)
        return world_size() * rows.sum() / self.global_batch_size


@dataclass(frozen=True)
class StepLoss:
    """The loss of a step: cls, pen where it is wanted, and con.

    Args:
        penalty: add pen.
        contrast_weight: weight of con.
        temperature: mu.
        confidence: take con of PLS in place of LSA's.
    """

    penalty: bool
    contrast_weight: float
    temperature: float
    confidence: bool

    def terms(
        self,
        network: nn.Module,
        projection: nn.Module,
        image: Tensor,
        other_view: Tensor | None,
        target: Tensor,
        weight: Tensor,
        index: Tensor,
        mixing: Mixing,
        global_batch_size: int,
    ) -> dict[str, Tensor]:
        """Compute the terms of a step and, as `loss`, their sum.

        Args:
            network: f, the classifier.
            projection: maps the classifier's features to h.
            image: images before they are mixed, `[b, C, H, W]`.
            other_view: views that the contrastive term compares with, `[b, C, H, W]`; None leaves cls alone, as before
                the first detection.
            target: t, `[b, C]`.
            weight: u, `[b]`.
            index: position of each image in the training set, `[b]`.
            mixing: partners and weight by which the images are mixed.
            global_batch_size: B, images of the batch over all processes.
        """
        logits, features = logits_and_features(network, mixing(image))
        mixed = MixedBatch(logits, target, weight, index, mixing, global_batch_size)
        terms = {"classification": mixed.classification()}
        if other_view is None:
            terms["contrast"] = 0 * projection(features).sum()  # DDP expects a gradient of every parameter
        else:
            if self.penalty:
                terms["penalty"] = mixed.penalty()
            _, others = logits_and_features(network, other_view)
            terms["contrast"] = self.contrast_weight * mixed.contrastive(
                projection(features), projection(others), self.temperature, self.confidence
            )
        terms["loss"] = torch.stack([term.to(target.dtype) for term in terms.values()]).sum()
        return terms
