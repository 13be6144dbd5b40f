"""Losses of PLS and PLS-LSA, over the global batch.

For an image i, let s be the prediction of the network and g the sharpened guess. The target t of a noisy image is g,
and the target of any other image is its label y in the dataset. The weight of the target is u. In mixup, image i is
mixed with its partner, image o(i), and l is the fraction of image i in the mixture. For the mixed image, z are the
logits and h is the projection; h' is the projection of a different view of the image.

    g = s^gamma / sum_c s_c^gamma,            L_i(t) = -sum_c t_c log softmax(z_i)_c
    cls = l sum_i u_i L_i(t_i) / sum_i u_i + (1 - l) sum_i u_o(i) L_i(t_o(i)) / sum_i u_o(i)
    pen = sum_c (1/C) log((1/C) / mean_i softmax(z_i)_c)
    S_ij = <h_i, h'_j> / mu of normalised h and h',    H(a, S_i) = -sum_j a_j log softmax(S_i)_j / sum_j a_j
    LSA: con = mean_i [ l H(A_i, S_i) + (1 - l) H(A_o(i), S_i) ],
         A_ij = 1 where t_i and t_j have the same most probable class, 0 elsewhere
    PLS: con = mean_i H(l A_i + (1 - l) A_o(i), S_i),
         A_ij = u_i u_j [l t_i + (1 - l) t_o(i) and l t_j + (1 - l) t_o(j) have the same most probable class]
                + (1 - u_i)(1 - u_j) [i = j]: doubtful images fall back to themselves

Source: Albert et al., ECCV 2024 (LSA) and WACV 2023, arXiv 2210.04578 (PLS), as computed in the authors' code.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from datamodules.arguments import at_least, positive
from datamodules.distributed.collectives import world_size
from lightning_modules.backbones.layer_features import logits_and_features
from lightning_modules.distributed.global_rows import global_rows, global_sum
from lightning_modules.full_precision import at_least_float32
from lightning_modules.losses.contrastive import cosine_similarities
from lightning_modules.losses.mixing import Mixing


def sharpen(probability: Tensor, gamma: float) -> Tensor:
    """Sharpen predictions `[B, C]` into guesses g.

    Each row of the result sums to one.
    """
    power = probability**gamma
    return power / power.sum(dim=1, keepdim=True)


def cross_entropy_per_sample(logits: Tensor, target: Tensor) -> Tensor:
    """Compute L_i(t_i), `[B]`, from logits and targets, both `[B, C]`, in float32 or a higher precision."""
    return -(target * at_least_float32(logits).log_softmax(dim=1)).sum(dim=1)


def weighted_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor, total: Tensor | None = None) -> Tensor:
    """Compute the weighted mean loss sum_i u_i L_i(t_i) / sum_i u_i.

    Args:
        logits: logits z, `[B, C]`.
        target: targets t, `[B, C]`.
        weight: weights u of the targets, at least 0, `[B]`. If all weights are 0, the loss is 0.
        total: sum of u_i over the global batch; None uses the sum over `weight`.
    """
    total = weight.sum() if total is None else total
    return (weight * cross_entropy_per_sample(logits, target)).sum() / total.clamp(min=1e-6)


def uniformity_penalty(mean_probability: Tensor) -> Tensor:
    """Compute the penalty pen from the mean prediction `[C]`.

    The penalty is 0 for a uniform mean prediction, and otherwise positive.
    """
    p = mean_probability.clamp(min=torch.finfo(mean_probability.dtype).tiny)
    return -(p * len(p)).log().mean()


def same_class(category: Tensor, other: Tensor) -> Tensor:
    """Compute the positives A of LSA, `[b, B]`.

    The entry A_ij is 1 if the class `category[i]` equals the class `other[j]`, and 0 otherwise. The arguments have the
    shapes `[b]` and `[B]`.
    """
    return (category[:, None] == other).float()


def confident_same_class(
    category: Tensor, weight: Tensor, index: Tensor, other: Tensor, other_weight: Tensor, other_index: Tensor
) -> Tensor:
    """Compute the positives A of PLS, `[b, B]`.

    Args:
        category: most probable class of the mixed target, `[b]`.
        weight: weights u, `[b]`.
        index: indices of the images in the training set, `[b]`.
        other: `category` of the images in the columns of A, `[B]`.
        other_weight: `weight` of the images in the columns of A, `[B]`.
        other_index: `index` of the images in the columns of A, `[B]`.

    Returns:
        `[b, B]`, in [0, 1].
    """
    itself = (index[:, None] == other_index).to(weight.dtype)
    same = (category[:, None] == other).to(weight.dtype)
    return weight[:, None] * other_weight * same + (1 - weight)[:, None] * (1 - other_weight) * itself


def contrast(projection: Tensor, other: Tensor, positives: Tensor, temperature: float) -> Tensor:
    """Compute the contrastive cross-entropy H(A_i, S_i), `[b]`.

    Args:
        projection: projections h, `[b, D]`, which need not be normalised.
        other: projections h' of the other views, `[B, D]`, which need not be normalised.
        positives: positives A, `[b, B]`. Entries are at least 0, and each row has a positive entry.
        temperature: temperature mu.
    """
    similarity = cosine_similarities(projection, other) / temperature
    return cross_entropy_per_sample(similarity, positives.to(similarity.dtype)) / positives.sum(dim=1)


@dataclass(frozen=True)
class MixedBatch:
    """Predictions and targets of a batch of mixed images; the first dimension of each tensor is b."""

    logits: Tensor
    """Logits z of the mixed images, `[b, C]`."""
    target: Tensor
    """Targets t of the images before mixing, `[b, C]`."""
    weight: Tensor
    """Weights u of the images before mixing, `[b]`."""
    index: Tensor
    """Index of each image in the training set, `[b]`."""
    mixing: Mixing
    global_batch_size: int
    """Size B of the global batch."""

    def classification(self) -> Tensor:
        """Compute this rank's share of the classification term cls.

        The mean of the shares over ranks is the term cls of the global batch.
        """
        own, partners = self.mixing.weight, self.mixing.partners
        total = global_sum(self.weight.sum())
        first = weighted_cross_entropy(self.logits, self.target, self.weight, total)
        second = weighted_cross_entropy(self.logits, partners(self.target), partners(self.weight), total)
        return world_size() * (own * first + (1 - own) * second)

    def penalty(self) -> Tensor:
        """Compute the penalty `pen` for the mean prediction over the global batch."""
        p = at_least_float32(self.logits).softmax(dim=1)
        return uniformity_penalty(global_sum(p.sum(dim=0)) / self.global_batch_size)

    def contrastive(self, projection: Tensor, other: Tensor, temperature: float, confidence: bool) -> Tensor:
        """Compute the contrastive term con.

        The term compares each mixed image with the other views of all images in the global batch.

        Args:
            projection: projections h of the mixed images, `[b, D]`.
            other: projections h' of a different view of each image, `[b, D]`.
            temperature: temperature mu.
            confidence: whether to use the contrastive term of PLS instead of the contrastive term of LSA.
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
    """Loss of a training step on mixed images, with the terms cls, con and, optionally, pen.

    Args:
        penalty: whether to add the penalty pen, which pulls the mean prediction towards the uniform distribution.
        contrast_weight: weight of the contrastive term con.
        temperature: temperature mu of the contrastive term.
        confidence: whether to use the contrastive term of PLS, in which an image with an unreliable guess has only
            itself as a positive.
        mixup_alpha: parameter alpha of the distribution Beta(alpha, alpha) of mixup weights; 0 disables mixup.
    """

    penalty: bool = False
    contrast_weight: float = 1.0
    temperature: float = 0.2
    confidence: bool = False
    mixup_alpha: float = 1.0

    def __post_init__(self) -> None:
        at_least(0, mixup_alpha=self.mixup_alpha, contrast_weight=self.contrast_weight)
        positive(temperature=self.temperature)

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
        """Compute the loss terms of a step, and their sum `loss`.

        Args:
            network: classifier f.
            projection: network that maps the features of the classifier to h.
            image: images before mixing, `[b, C, H, W]`.
            other_view: second views of the images, for the contrastive term, `[b, C, H, W]`. None, used before the
                first detection, means that only cls is computed.
            target: targets t, `[b, C]`.
            weight: weights u, `[b]`.
            index: index of each image in the training set, `[b]`.
            mixing: mixup partners, and weight of each image in its mixture.
            global_batch_size: size B of the global batch.
        """
        logits, features = logits_and_features(network, mixing(image))
        mixed = MixedBatch(logits, target, weight, index, mixing, global_batch_size)
        terms = {"classification": mixed.classification()}
        if other_view is None:
            terms["contrast"] = 0 * projection(features).sum()  # DDP expects a gradient for every parameter
        else:
            if self.penalty:
                terms["penalty"] = mixed.penalty()
            _, others = logits_and_features(network, other_view)
            terms["contrast"] = self.contrast_weight * mixed.contrastive(
                projection(features), projection(others), self.temperature, self.confidence
            )
        terms["loss"] = torch.stack([term.to(target.dtype) for term in terms.values()]).sum()
        return terms
