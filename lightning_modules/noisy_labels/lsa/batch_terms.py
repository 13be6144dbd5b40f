"""The terms of a step's loss, on this process's share of a batch."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_modules.distributed.global_rows import global_rows, global_sum
from lightning_modules.full_precision import at_least_float32
from lightning_modules.losses.mixing import Mixing
from lightning_modules.networks.layer_features import logits_and_features
from lightning_modules.noisy_labels.lsa.objective import (
    confident_same_class,
    contrast,
    same_class,
    uniformity_penalty,
    weighted_cross_entropy,
)


@dataclass(frozen=True)
class Mixed:
    """A mixed batch and what belongs to it, `[b, ...]`."""

    logits: Tensor
    """z, of the mixed images."""
    target: Tensor
    """t, of the images before they were mixed."""
    weight: Tensor
    """u, likewise."""
    index: Tensor
    """Which images they are."""
    mixing: Mixing
    global_size: int
    """B."""

    def classification(self) -> Tensor:
        """cls. The mean over processes is that over the whole batch."""
        processes = dist.get_world_size() if dist.is_initialized() else 1
        own, partner = self.mixing.weight, self.mixing.partner
        total = global_sum(self.weight.sum())
        first = weighted_cross_entropy(self.logits, self.target, self.weight, total)
        second = weighted_cross_entropy(self.logits, self.target[partner], self.weight[partner], total)
        return processes * (own * first + (1 - own) * second)

    def penalty(self) -> Tensor:
        """pen, of the mean prediction over all processes."""
        p = at_least_float32(self.logits).softmax(dim=1)
        return uniformity_penalty(global_sum(p.sum(dim=0)) / self.global_size)

    def contrastive(self, projection: Tensor, other: Tensor, temperature: float, confidence: bool) -> Tensor:
        """con. Each image is compared with the other views of the whole batch.

        Args:
            projection: `[b, D]`: h, of the mixed images.
            other: `[b, D]`: h', of another view of each.
            temperature: mu.
            confidence: the term of PLS rather than of LSA.
        """
        others = global_rows(other, self.global_size)
        if confidence:
            category = self.mixing(self.target).argmax(dim=1)
            own = category, self.weight, self.index
            positives = confident_same_class(*own, *(global_rows(each, self.global_size) for each in own))
            rows = contrast(projection, others, self.mixing(positives), temperature)
        else:
            category = self.target.argmax(dim=1)
            positives = same_class(category, global_rows(category, self.global_size))
            kept, partner = self.mixing.weight, self.mixing.partner
            rows = kept * contrast(projection, others, positives, temperature)
            rows = rows + (1 - kept) * contrast(projection, others, positives[partner], temperature)
        processes = dist.get_world_size() if dist.is_initialized() else 1
        return processes * rows.sum() / self.global_size


@dataclass(frozen=True)
class Objective:
    """Which terms there are.

    Args:
        penalty: whether pen is one.
        contrast_weight: weight of con.
        temperature: mu.
        confidence: con of PLS rather than of LSA.
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
        global_size: int,
    ) -> dict[str, Tensor]:
        """The terms of a step and, as `loss`, their sum.

        Args:
            network: f.
            projection: maps its features to h.
            image: `[b, C, H, W]`, before it is mixed.
            other_view: `[b, C, H, W]`: what the contrastive term compares with; None before the first detection, when
                cls is all there is.
            target: `[b, C]`: t.
            weight: `[b]`: u.
            index: `[b]`: which images they are.
            mixing: how the images are mixed.
            global_size: B.
        """
        logits, features = logits_and_features(network, mixing(image))
        mixed = Mixed(logits, target, weight, index, mixing, global_size)
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
