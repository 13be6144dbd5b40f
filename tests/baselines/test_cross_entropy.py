import pytest
import torch
from torch import nn

from lightning_modules.baselines.cross_entropy import CrossEntropy, generalized_cross_entropy
from lightning_modules.losses.mixing import SoftLabels


def test_the_generalised_loss_lies_between_cross_entropy_and_mean_absolute_error() -> None:
    """q = 1 is 1 - p, which is half the mean absolute error of one-hot labels; q -> 0 is -log p; q = 1/2 by hand."""
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -60.0]], dtype=torch.float64)
    label = torch.tensor([2, 2])
    p = torch.stack([row.exp()[2] / row.exp().sum() for row in logits])
    absolute = (logits.softmax(dim=1) - nn.functional.one_hot(label)).abs().sum(dim=1).mean()
    torch.testing.assert_close(generalized_cross_entropy(logits, label, 1.0), absolute / 2)
    torch.testing.assert_close(generalized_cross_entropy(logits, label, 1e-9), -p.log().mean())
    torch.testing.assert_close(generalized_cross_entropy(logits, label, 0.5), (2 - 2 * p.sqrt()).mean())


def test_the_gradient_of_a_false_label_is_smaller_by_its_probability() -> None:
    """dL_q / dz is p^q times the gradient of the cross-entropy, equation 7 of the paper."""
    logits = torch.tensor([[4.0, -1.0, 0.5]], dtype=torch.float64, requires_grad=True)
    label = torch.tensor([1])
    [own] = torch.autograd.grad(generalized_cross_entropy(logits, label, 0.7), logits)
    [plain] = torch.autograd.grad(nn.functional.cross_entropy(logits, label), logits)
    torch.testing.assert_close(own, logits.softmax(dim=1)[0, 1].detach() ** 0.7 * plain)


def test_the_step_uses_q_and_q_needs_plain_labels() -> None:
    batch = {"image": torch.rand(4, 1, 2, 2), "label": torch.tensor([0, 1, 2, 1]), "global_batch_size": 4}
    model = CrossEntropy(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), 3, q=0.7)
    expected = generalized_cross_entropy(model(batch["image"]), batch["label"], 0.7)
    torch.testing.assert_close(model.training_step(batch, 0)["loss"], expected)
    for given in ({"soft_labels": SoftLabels()}, {"binary": True}, {"view": nn.Identity()}):
        with pytest.raises(ValueError, match=r"q must be 0 with soft_labels, binary or view, got 0\.7"):
            CrossEntropy(nn.Identity(), 3, q=0.7, **given)
