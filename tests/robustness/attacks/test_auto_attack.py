import importlib.util
import math

import pytest
import torch
from torch import Tensor

from lightning_modules.robustness.attacks.ascent import Norm, size
from lightning_modules.robustness.attacks.auto_attack import AutoAttack, with_fixed_draws
from tests.robustness.attacks.classifiers import SHAPE, confident, half_space, images, numbers, perceptron

needs_autoattack = pytest.mark.skipif(
    importlib.util.find_spec("pyautoattack") is None, reason="pyautoattack is not installed"
)


def test_fixed_draws_have_their_mean_and_its_gradient_in_the_memory_of_one() -> None:
    """The classifier draws five noisy copies, and has two votes for each of them."""
    weight, noise, image = numbers(2, 18, 4), numbers(5, *SHAPE, seed=1), numbers(3, *SHAPE)
    kept = []

    def votes(given: Tensor, noise: Tensor) -> Tensor:
        assert given.shape == noise.shape
        return (given + noise).flatten(1).exp().sin() @ weight

    network = with_fixed_draws(votes, noise)
    given, same = image.clone().requires_grad_(), image.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        found = network(given)
    exact = torch.stack([votes(same, one.expand_as(same)) for one in noise]).softmax(-1).mean((0, 1))
    torch.testing.assert_close(found.exp(), exact)
    towards = numbers(3, 4)
    (gradient,) = torch.autograd.grad((found.exp() * towards).sum(), given)
    torch.testing.assert_close(gradient, torch.autograd.grad((exact * towards).sum(), same)[0])
    assert torch.equal(network(image[1:]), network(image)[1:])
    assert (3, 18) not in kept


@needs_autoattack
@pytest.mark.parametrize(("dtype", "autocast"), [(torch.float16, False), (torch.bfloat16, True)])
def test_autoattack_computes_without_float16(dtype: torch.dtype, autocast: bool) -> None:
    network, image, label = confident(gap=20, classes=4)
    seen = set()
    network.register_forward_hook(lambda *_: seen.add(torch.is_autocast_enabled("cpu")))
    with torch.autocast("cpu", dtype):
        AutoAttack("linf", 0.1).perturb(network, image[:2], label[:2])
    assert seen == {autocast}


def test_without_the_package_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install noiseworks\[attacks\]"):
        AutoAttack("linf", 0.1)


@needs_autoattack
@pytest.mark.parametrize("norm", ["linf", pytest.param("l2", marks=pytest.mark.nightly)])
def test_autoattack_finds_the_exact_robust_accuracy_of_a_linear_classifier(norm: Norm) -> None:
    """The distance between classes y and k is (z_y - z_k) / ||w_y - w_k||_*."""
    weight = numbers(5, 50).float()
    image = 0.5 + 0.1 * (torch.rand(6, 2, 5, 5, generator=torch.Generator().manual_seed(8)) - 0.5)
    logits = (image - 0.5).flatten(1) @ weight.T
    label = logits.argmax(1)
    between = weight[label][:, None] - weight
    length = between.abs().sum(-1) if norm == "linf" else between.norm(dim=-1)
    distance = ((logits.gather(1, label[:, None]) - logits) / length).nan_to_num(math.inf).min(1).values
    epsilon = float(distance.sort().values[3:5].mean())
    torch.manual_seed(0)
    found = AutoAttack(norm, epsilon).perturb(lambda x: (x - 0.5).flatten(1) @ weight.T, image, label)
    assert torch.equal(((found - 0.5).flatten(1) @ weight.T).argmax(1) != label, distance < epsilon)
    assert (size(found - image, norm) <= epsilon + 1e-6).all()
    assert ((found >= 0) & (found <= 1)).all()


@needs_autoattack
def test_what_autoattack_cannot_attack_is_refused() -> None:
    with pytest.raises(ValueError, match="has 2: use PGD"):
        AutoAttack("linf", 0.1).perturb(half_space(numbers(18), 0), *images())
    with pytest.raises(ValueError, match="got 3: use PGD"):
        AutoAttack("l2", 0.1).perturb(perceptron(), *images())
