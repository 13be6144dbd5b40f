"""APGD during training, and the adaptive attack for evaluation."""

import importlib.util
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.interfaces import MixtureOutput
from lightning_modules.robustness.adaptive_smoothing import AdaptiveAttack
from lightning_modules.robustness.adaptive_smoothing.attacks import (
    TrainingAttack,
    adaptive_ascent,
    checkpoints,
    randomised_attack,
)
from lightning_modules.robustness.adaptive_smoothing.mixture import AlphaRange
from lightning_modules.robustness.attacks import PGD
from lightning_modules.robustness.attacks.ascent import size
from tests.robustness.adaptive_smoothing.small_mixture import images, normal, pair

needs_autoattack = pytest.mark.skipif(
    importlib.util.find_spec("pyautoattack") is None, reason="pyautoattack is not installed"
)


def test_checkpoints_are_those_of_the_paper() -> None:
    """The first checkpoint is at 0.22 N; each further interval is 0.03 N shorter, down to 0.06 N."""
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1) == [1]
    assert checkpoints(3) == [1, 2, 3]


def test_the_step_is_halved_until_a_parabola_is_solved() -> None:
    """The maximum differs between images; steps of constant length 2 epsilon would oscillate around it."""
    image = torch.full((3, 1, 1, 1), 0.5, dtype=torch.float64)
    centre, budget = torch.tensor([0.52, 0.41, 0.9], dtype=torch.float64), torch.full((3,), 0.2, dtype=torch.float64)

    def mixture(given: Tensor) -> Any:
        return -(given.flatten() - centre).square()

    best = adaptive_ascent(mixture, image, lambda value: value, "linf", budget, 100, image + 0.2)
    torch.testing.assert_close(best.flatten()[:2], centre[:2], rtol=0, atol=2e-3)
    assert best.flatten()[2] == pytest.approx(0.7)


@needs_autoattack
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_apgd_is_that_of_its_authors(norm: Any) -> None:
    """With cross-entropy and the same start, the result is the same for nearly every image.

    The authors' first count of increases ignores the start.
    """
    from pyautoattack.autopgd_base import APGDAttack

    torch.manual_seed(0)
    image, label = images(48)
    layer = normal(16, 6, seed=1, scale=2.0), normal(6, 4, seed=2)

    def network(given: Tensor) -> Tensor:
        return torch.sin(given.flatten(1) @ layer[0]) @ layer[1]

    start = (image + 0.1 * normal(*image.shape, seed=3).clamp(-0.3, 0.3)).clamp(0, 1)
    theirs = APGDAttack(
        network, n_iter=50, norm={"linf": "Linf", "l2": "L2"}[norm], eps=0.25, loss="ce", device="cpu", seed=0
    )
    theirs.init_hyperparam(image)
    expected = theirs.attack_single_run(image, label, x_init=start)[0]
    found = adaptive_ascent(
        network,  # type: ignore[arg-type]
        image,
        lambda logits: F.cross_entropy(logits, label, reduction="none"),  # type: ignore[arg-type]
        norm,
        torch.full((48,), 0.25, dtype=torch.float64),
        50,
        start,
    )
    equal = (found - expected).flatten(1).abs().amax(1) < 1e-6
    assert equal.double().mean() > 0.8


def test_every_kind_of_attack_is_run_on_each_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """The objective of copy k of an image targets the class with rank k; an image's copies are never adjacent."""
    mixture, seen = pair().eval(), []
    image, label = images(6)

    def objective(mixed: MixtureOutput, label: Tensor, target: Tensor, targeted: Tensor, weight: Tensor) -> Tensor:
        seen.append((label, target, targeted, weight))
        return mixed.log_probability[:, 0]

    monkeypatch.setattr("lightning_modules.robustness.adaptive_smoothing.attacks.attack_objective", objective)

    def evaluated(given: Tensor) -> MixtureOutput:
        return mixture.mix(given, mixture.in_training)

    attack = TrainingAttack("apgd", epsilon=0.1, num_targets=3, every_kind=True)
    attacked = randomised_attack(evaluated, image, label, attack, steps=3)
    assert attacked.shape == (24, 1, 4, 4)
    assert (size(attacked - image.repeat(4, 1, 1, 1), "linf") <= 0.11 + 1e-12).all()
    ranked = evaluated(image).log_probability.argsort(dim=1, descending=True)
    of_label, target, targeted, weight = seen[0]
    assert torch.equal(of_label, label.repeat(4))
    assert torch.equal(target, ranked.T.flatten())
    assert torch.equal(targeted, torch.arange(24) >= 6)
    assert weight.unique().numel() == 24


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_adaptive_attack_fools_what_pgd_fools_and_more(norm: Any) -> None:
    mixture = pair(evaluation=AlphaRange(4.0, 1.3, 1.0, 0.0)).eval()
    epsilon = 0.12 if norm == "linf" else 0.35
    image, _ = images(64, seed=5)
    label = mixture(image).argmax(dim=1)
    torch.manual_seed(0)
    plain = PGD(norm, epsilon, steps=20).perturb(
        lambda given: mixture.mixture_output(given).log_probability, image, label
    )
    attack = AdaptiveAttack(norm, epsilon, steps=20)
    adaptive = attack.perturb(mixture.mixture_output, image, label)
    fooled = [mixture(given).argmax(dim=1) != label for given in (plain, adaptive)]
    assert 0 < fooled[0].sum() < 64
    assert fooled[1].sum() >= fooled[0].sum()
    assert (size(adaptive - image, norm) <= epsilon + 1e-9).all()
    assert ((adaptive >= 0) & (adaptive <= 1)).all()
    assert attack.title == f"adaptiveattack_{norm}_{epsilon}"


def test_the_adaptive_attack_leaves_a_fixed_alpha_and_few_classes_finite() -> None:
    image, label = images(8)
    for alpha in (1.0, 0.9):
        mixture = pair(alpha=alpha).eval()
        attacked = AdaptiveAttack("linf", 0.3, steps=3).perturb(
            lambda g, m=mixture, a=alpha: m.mixture_output(g, a), image, label
        )
        assert attacked.isfinite().all()
        assert (attacked != image).any()


@pytest.mark.parametrize("weights", [(), (1.0,)])
def test_bad_weights_are_named(weights: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="gamma_weights must be one or more numbers"):
        AdaptiveAttack("linf", 0.1, gamma_weights=weights)
