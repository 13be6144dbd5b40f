"""The regularised loss of noisy copies, computed with probabilities, and the comparison of two losses' gradients."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def loss_by_hand(
    logits: Tensor, label: Tensor, consistency_weight: float, entropy_weight: float, floor: float = 0.0
) -> Tensor:
    """Compute mean CE + lambda mean KL(p || p_j) + eta H(p) of logits `[m, B, K]`, term by term."""
    cross_entropy = torch.stack([F.cross_entropy(each, label) for each in logits]).mean()
    if len(logits) == 1:
        return cross_entropy
    copies = [each.softmax(dim=-1) for each in logits]
    mean = (sum(copies) / len(copies)).clamp(min=floor)  # type: ignore[union-attr]
    divergence = torch.stack([(mean * (mean / p.clamp(min=floor)).log()).sum(dim=-1) for p in copies]).mean()
    entropy = -(mean * mean.log()).sum(dim=-1).mean()
    return cross_entropy + consistency_weight * divergence + entropy_weight * entropy


def assert_same_with_gradients(loss: Tensor, expected: Tensor, parameters: Iterable[nn.Parameter]) -> None:
    """Compare two losses and their gradients."""
    torch.testing.assert_close(loss, expected)
    trained = list(parameters)
    gradients = [torch.autograd.grad(each, trained, retain_graph=True) for each in (loss, expected)]
    torch.testing.assert_close(gradients[0], gradients[1])
    assert all(gradient.any() for gradient in gradients[0])
