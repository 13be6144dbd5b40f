from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from lightning_modules.interfaces import MixtureOutput
from lightning_modules.robustness.adaptive_smoothing.attacks import (
    TrainingAttack,
    ascent,
    attack_objective,
    drawn_steps,
    randomised_attack,
    targeted_dlr,
)
from lightning_modules.robustness.adaptive_smoothing.mixture import Mixture
from lightning_modules.robustness.attacks.ascent import size
from tests.robustness.adaptive_smoothing.small_mixture import images, normal, pair

ATTACK = TrainingAttack(epsilon=0.1, num_targets=3)


def test_targeted_dlr() -> None:
    z = torch.tensor([[4.0, 1.0, 3.0, 0.0, -2.0], [0.0, 5.0, 1.0, 2.0, 4.0]], dtype=torch.float64)
    found = targeted_dlr(z, torch.tensor([0, 4]), torch.tensor([2, 1]))
    torch.testing.assert_close(found, torch.tensor([-(4 - 3) / (4 - 0.5), -(4 - 5) / (5 - 1.5)], dtype=torch.float64))
    torch.testing.assert_close(targeted_dlr(z.log_softmax(1), torch.tensor([0, 4]), torch.tensor([2, 1])), found)


def test_the_objective_of_an_attack_and_its_gradients() -> None:
    """-log p_y has the gradient p - y with respect to the logits, and the second term has -w (1 - sigmoid(gamma))."""
    z, gamma = normal(6, 5).requires_grad_(), normal(6, seed=1).requires_grad_()
    label, target, weight = torch.arange(6) % 5, (torch.arange(6) + 2) % 5, torch.linspace(0, 0.4, 6).double()
    targeted, row = torch.tensor([True, False] * 3), torch.arange(6)
    found = attack_objective(MixtureOutput(z.log_softmax(1), gamma, gamma.sigmoid()), label, target, targeted, weight)
    top = z.topk(4, dim=1).values
    towards = (z[row, target] - z[row, label]) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2)
    expected = (1 - weight) * torch.where(targeted, towards, -z.log_softmax(1)[row, label])
    expected = expected + weight * torch.log1p(torch.exp(-gamma))
    torch.testing.assert_close(found, expected)
    of_z, of_gamma = torch.autograd.grad(found.sum(), [z, gamma])
    torch.testing.assert_close(of_gamma, -weight * (1 - gamma.sigmoid()))
    closed = (z.softmax(1) - F.one_hot(label, 5)) * (1 - weight)[:, None]
    torch.testing.assert_close(of_z[~targeted], closed[~targeted])
    torch.testing.assert_close(of_z, torch.autograd.grad(expected.sum(), z)[0])


def test_the_objective_of_an_attack_on_a_confident_mixture_keeps_its_digits() -> None:
    """In float32, -log p_y would be 0 if p_y rounds to 1."""
    z = torch.tensor([[0.0, 30.0], [0.0, 31.0], [-5.0, 2.0]], requires_grad=True)
    mixed = MixtureOutput(z.log_softmax(1), torch.zeros(3), torch.full((3,), 0.5))
    label, no_weight = torch.ones(3, dtype=torch.int64), torch.zeros(3)
    objective = attack_objective(mixed, label, label, torch.zeros(3, dtype=torch.bool), no_weight)
    (gradient,) = torch.autograd.grad(objective.sum(), z)
    exact = z.detach().double().softmax(1)
    torch.testing.assert_close(objective.double(), torch.log1p(exact[:, 0] / exact[:, 1]), rtol=1e-5, atol=0)
    expected = torch.stack([exact[:, 0], -exact[:, 0]], dim=1)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=0)


def untargeted(mixture: Mixture, image: Tensor, label: Tensor, weight: float, steps: int = 10) -> Tensor:
    torch.manual_seed(0)
    weights = torch.full((len(image),), weight, dtype=torch.float64)
    return ascent(
        lambda perturbed: mixture.mix(perturbed, mixture.in_training),
        image,
        lambda mixed: attack_objective(mixed, label, label, torch.zeros_like(label, dtype=torch.bool), weights),
        "linf",
        torch.full((len(image),), 0.1, dtype=torch.float64),
        steps,
        torch.zeros(len(image), dtype=torch.float64),
    )


def test_the_second_term_of_an_attack_lowers_gamma() -> None:
    mixture = pair().eval()
    image, label = images(64)
    gammas = [
        mixture.mix(untargeted(mixture, image, label, weight), mixture.in_training).gamma.mean()
        for weight in (0.0, 1.0)
    ]
    assert gammas[1] < gammas[0] - 0.01
    assert gammas[1] < mixture.mix(image, mixture.in_training).gamma.mean()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_ascent_keeps_its_budgets_and_raises_its_objective(norm: Any) -> None:
    mixture = pair().eval()
    image, label = images(32)
    budget = torch.linspace(0.02, 0.2, 32, dtype=torch.float64)

    def objective(mixed: MixtureOutput) -> Tensor:
        return F.nll_loss(mixed.log_probability, label, reduction="none")

    perturbed = ascent(
        lambda given: mixture.mix(given, mixture.in_training), image, objective, norm, budget, 20, 0.5 * budget
    )
    assert (size(perturbed - image, norm) <= budget + 1e-12).all()
    assert ((perturbed >= 0) & (perturbed <= 1)).all()
    before, after = (objective(mixture.mix(given, mixture.in_training)) for given in (image, perturbed))
    assert (after > before).all()
    assert not perturbed.requires_grad


def test_momentum_keeps_a_part_of_the_former_gradient() -> None:
    """If an objective is linear, its gradient is constant and the sum only grows; a sign change shows what is kept."""
    image = torch.full((2, 1, 1, 1), 0.5, dtype=torch.float64)
    slopes = iter([1.0, -0.5, -0.5])
    seen = []

    def mixture(given: Tensor) -> Any:
        seen.append(given.detach().flatten() - 0.5)
        return given.flatten() * next(slopes)

    momentum = torch.tensor([0.0, 0.9], dtype=torch.float64)
    torch.manual_seed(0)
    end = ascent(mixture, image, lambda value: value, "linf", torch.full((2,), 0.4, dtype=torch.float64), 3, momentum)
    # Steps of 5/3 of the budget reach its boundary: first +, then the sign of -0.5 + m, then of -0.5 + m (-0.5 + m).
    torch.testing.assert_close(seen[1], torch.tensor([0.4, 0.4], dtype=torch.float64))
    torch.testing.assert_close(seen[2], torch.tensor([-0.4 + 0.4 - 4 / 15, 0.4], dtype=torch.float64))
    torch.testing.assert_close(
        end.flatten() - 0.5, torch.tensor([-0.4, 0.4 - 2 / 3 + 4 / 15 - 4 / 15], dtype=torch.float64)
    )


def test_numbers_of_steps_are_chi_squared() -> None:
    drawn = np.array([drawn_steps(20, (0, 0, batch)) for batch in range(4000)])
    assert drawn.min() >= 1
    assert stats.kstest(drawn + stats.uniform.rvs(-0.5, 1, 4000, random_state=0), stats.chi2(20).cdf).pvalue > 1e-3
    assert min(drawn_steps(1, (0, 0, batch)) for batch in range(200)) == 1


def test_numbers_of_steps_follow_seed_epoch_and_batch() -> None:
    places = [(seed, epoch, 0) for seed in range(3) for epoch in range(3)]
    rows = [tuple(drawn_steps(20, (seed, epoch, batch)) for batch in range(12)) for seed, epoch, _ in places]
    assert len(set(rows)) == len(places)
    assert rows[4] == tuple(drawn_steps(20, (1, 1, batch)) for batch in range(12))


def test_each_kind_of_attack_is_drawn_and_targets_follow_the_clean_prediction() -> None:
    mixture = pair().eval()
    image, label = images(64)
    torch.manual_seed(1)
    attacked = randomised_attack(lambda given: mixture.mix(given, mixture.in_training), image, label, ATTACK, steps=5)
    reach = size(attacked - image, "linf")
    assert (reach <= 0.11 + 1e-12).all()
    assert reach.max() > 0.09
    assert reach.min() < 0.06
    assert (attacked != image).flatten(1).any(dim=1).all()


def test_autocast_to_float16_does_not_reach_the_attack() -> None:
    mixture = pair().float()
    image, label = images()
    seen = set()

    def mixed(given: Tensor) -> MixtureOutput:
        seen.add(torch.is_autocast_enabled("cpu"))
        return mixture.mix(given, mixture.in_training)

    with torch.autocast("cpu", torch.float16):
        randomised_attack(mixed, image.float(), label, ATTACK, steps=2)
    assert seen == {False}
