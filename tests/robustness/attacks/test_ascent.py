import copy
import itertools
import math
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datamodules.randomness.generators import generator_of
from lightning_modules.robustness.attacks.ascent import (
    PGD,
    Attacked,
    Norm,
    attacked_with_gradient,
    different_titles,
    evaluate_randomised,
    log_odds,
    log_odds_of_mean,
    pgd,
    projected_gradient_ascent,
    random_start,
    worse,
)
from lightning_modules.robustness.attacks.minimal import DeepFool
from tests.robustness.attacks.classifiers import SHAPE, confident, dual, half_space, images, numbers, perceptron


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("starts_at_random", [True, False])
def test_the_perturbation_of_a_linear_classifier_is_the_optimal_one(norm: Norm, starts_at_random: bool) -> None:
    torch.manual_seed(0)
    weight = numbers(18)
    image, label = torch.full((6, *SHAPE), 0.5, dtype=torch.float64), torch.tensor([0, 1] * 3)
    start = random_start(image, norm, 0.1) if starts_at_random else image
    found = projected_gradient_ascent(half_space(weight, 0.3), image, label, start, norm, 0.1, 150, 0.02)
    optimum = 0.1 * (weight.sign() if norm == "linf" else weight / weight.norm())
    expected = torch.where(label[:, None] == 0, optimum, -optimum)
    torch.testing.assert_close((found.image - image).flatten(1), expected, rtol=0, atol=1e-7)  # the loss is flat there


def test_the_optimum_within_the_box_is_the_clipped_one() -> None:
    weight = numbers(18)
    image, label = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(1)).double(), torch.zeros(5).long()
    found = pgd(half_space(weight, 0.0), image, label, "linf", 0.4, 30, 0.1, starts_at_random=False)
    expected = (image.flatten(1) + 0.4 * weight.sign()).clamp(0, 1)
    torch.testing.assert_close(found.image.flatten(1), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_robust_accuracy_of_a_half_space_is_known(norm: Norm) -> None:
    """An image at distance |w.x - c| / ||w||_* from the plane withstands every smaller budget, and no larger one."""
    weight = numbers(18)
    image = 0.5 + 0.2 * (torch.rand(200, *SHAPE, generator=torch.Generator().manual_seed(2)).double() - 0.5)
    score = image.flatten(1) @ weight - 0.5 * weight.sum()
    label = (score > 0).long()
    distance = score.abs() / dual(weight, norm)
    epsilon = float(distance.sort().values[99:101].mean())
    assert epsilon < 0.4  # clipping has no effect
    network = half_space(weight, float(0.5 * weight.sum()))
    found = pgd(network, image, label, norm, epsilon, 100, epsilon / 5, starts_at_random=False)
    assert torch.equal(found.fooled, distance < epsilon)
    assert found.fooled.sum() == 100


def test_loss_and_success_are_those_of_the_image_that_is_kept_and_what_is_wrong_already_stays() -> None:
    network, (image, label) = perceptron(), images()
    label[:10] = (label[:10] + 1) % 4
    found = pgd(network, image, label, "linf", 0.1, 5, 0.03, restarts=2)
    logits = network(found.image)
    of_label = nn.functional.cross_entropy(logits, label, reduction="none")
    torch.testing.assert_close(nn.functional.softplus(found.loss), of_label)
    assert torch.equal(found.fooled, logits.argmax(1) != label)
    assert torch.equal(found.image[:10], image[:10])
    assert found.fooled[:10].all()


def test_a_classifier_that_turns_nan_is_not_fooled() -> None:
    image, label = images()
    found = pgd(lambda x: x.flatten(1)[:, :4] + (x - image).norm() * math.nan, image, label, "linf", 0.1, 3, 0.1)
    assert found.image.isfinite().all()
    assert not found.fooled.any()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_more_steps_and_more_restarts_never_do_less(norm: Norm) -> None:
    network, (image, label) = perceptron(), images()
    epsilon = 0.05 if norm == "linf" else 0.15

    def robust(steps: int, restarts: int) -> Tensor:
        torch.manual_seed(5)
        return ~pgd(network, image, label, norm, epsilon, steps, epsilon / 4, restarts).fooled

    by_steps = [robust(steps, 2) for steps in (1, 2, 4, 8, 16)]
    by_restarts = [robust(2, restarts) for restarts in (1, 2, 4, 8, 16)]
    for series in (by_steps, by_restarts):
        assert not any((less & ~more).any() for more, less in itertools.pairwise(series))
        assert series[-1].sum() < series[0].sum()
    assert 0 < by_steps[-1].sum() < len(image)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_point_that_steps_overshoot_is_kept(steps: int) -> None:
    """The classifier is fooled only near 0.51; the ascent starts there, and steps of 0.1 jump over it."""
    image, label = torch.full((2, *SHAPE), 0.5, dtype=torch.float64), torch.zeros(2, dtype=torch.int64)

    def network(x: Tensor) -> Tensor:
        away = (x.flatten(1).mean(1) - 0.51).abs()
        return torch.stack([50 * away, torch.full_like(away, 0.1)], dim=1)

    found = projected_gradient_ascent(network, image, label, image + 0.009, "linf", 0.2, steps, 0.1)
    assert torch.equal(found.image, image + 0.009)
    assert found.fooled.all()
    assert not network(image).argmax(1).eq(1).any()


def test_restarts_keep_the_worst() -> None:
    """With several draws, no restart is skipped: the result is the worst of separate ascents from the same starts."""
    network, (image, label) = perceptron(), images()
    torch.manual_seed(6)
    found = pgd(network, image, label, "linf", 0.05, 3, 0.01, restarts=3, num_draws=2)
    torch.manual_seed(6)
    ascents = [
        projected_gradient_ascent(network, image, label, random_start(image, "linf", 0.05), "linf", 0.05, 3, 0.01, 2)
        for _ in range(3)
    ]
    losses, fooled = torch.stack([one.loss for one in ascents]), torch.stack([one.fooled for one in ascents])
    assert torch.equal(found.fooled, fooled.any(0))
    worst = torch.where(fooled == fooled.any(0), losses, -math.inf).max(0)
    torch.testing.assert_close(found.loss, worst.values, rtol=0, atol=0)
    chosen = torch.stack([one.image for one in ascents])[worst.indices, torch.arange(len(image))]
    assert torch.equal(found.image, chosen)


def test_success_outweighs_loss() -> None:
    image = torch.zeros(4, *SHAPE)
    one = Attacked(image, torch.tensor([1.0, 1.0, 5.0, 5.0]), torch.tensor([True, False, True, False]))
    other = Attacked(image + 1, torch.tensor([2.0, 2.0, 2.0, 2.0]), torch.tensor([True, False, False, True]))
    merged = worse(one, other)
    assert merged.image[:, 0, 0, 0].tolist() == [1, 1, 0, 1]
    assert merged.loss.tolist() == [2, 2, 5, 2]
    assert merged.fooled.tolist() == [True, False, True, True]


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_gradient_is_that_of_the_mean_probability(scale: float) -> None:
    """For softmax(W (x + n_j)): grad p_y = p_y (w_y - sum_k p_k w_k), and grad L = -grad p_y / (p_y (1 - p_y))."""
    weight, noise, image, label = scale * numbers(5, 18), numbers(7, 3, 18, seed=1), numbers(3, *SHAPE), torch.arange(3)

    def network() -> Any:
        draws = iter(noise)
        return lambda given: (given.flatten(1) + next(draws)) @ weight.T

    found, gradient = attacked_with_gradient(network(), image, label, num_draws=7)
    p = ((image.flatten(1) + noise) @ weight.T).softmax(-1)
    p_y, others = p[:, torch.arange(3), label], p.scatter(2, label.expand(7, -1)[..., None], 0.0)
    # w_y - sum_k p_k w_k, computed without subtracting nearly equal numbers.
    of_each = p_y[..., None] * (others[..., None] * (weight[label][:, None] - weight)).sum(2)
    mean, rest = p_y.mean(0), others.sum(2).mean(0)
    expected = -of_each.mean(0) / (mean * rest)[:, None]
    torch.testing.assert_close(gradient.flatten(1), expected, rtol=1e-9, atol=1e-11 * scale)
    torch.testing.assert_close(found.loss, (rest / mean).log(), rtol=1e-11, atol=1e-12)
    assert torch.equal(found.fooled, p.mean(0).argmax(1) != label)
    again = evaluate_randomised(network(), image, label, num_draws=7)
    assert torch.equal(again.loss, found.loss)
    assert torch.equal(again.fooled, found.fooled)


def test_draws_follow_one_another_in_the_memory_of_one() -> None:
    class Saved:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor
            alive.add(self)

    network, (image, label) = perceptron(), images()
    alive: weakref.WeakSet[Saved] = weakref.WeakSet()
    before, after = [], []

    def drawn(given: Tensor) -> Tensor:
        assert given.shape == image.shape
        before.append(len(alive))
        logits = network(given + 0.1 * torch.randn_like(given))
        after.append(len(alive))
        return logits

    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        attacked_with_gradient(drawn, image, label, num_draws=5)
    assert before == [0] * 5
    assert min(after) > 0


def test_each_draw_has_noise_of_its_own() -> None:
    torch.manual_seed(0)
    image, label = torch.zeros(1, *SHAPE, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    found = evaluate_randomised(
        lambda x: torch.stack([torch.randn(len(x)), torch.zeros(len(x))], 1), image, label, 4000
    )
    assert found.loss == pytest.approx(0.0, abs=0.03)
    assert found.loss != 0


def test_the_network_is_left_as_it_was() -> None:
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(), nn.Linear(4, 4)).eval()
    before = copy.deepcopy(network.state_dict())
    image, label = torch.rand(4, *SHAPE), torch.arange(4)
    original = image.clone()
    pgd(network, image, label, "l2", 0.5, 3, 0.2, restarts=2, num_draws=2)
    assert torch.equal(image, original)
    assert not image.requires_grad
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
    assert not any(module.training for module in network.modules())
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


def test_an_ascent_never_waits_for_the_device() -> None:
    """The test runs on the meta device, where every synchronisation is an error."""
    layer = nn.Linear(18, 4, device="meta")
    image, label = torch.rand(4, *SHAPE, device="meta"), torch.zeros(4, dtype=torch.int64, device="meta")
    for norm in ("linf", "l2"):
        start = random_start(image, norm, 0.1)
        projected_gradient_ascent(lambda x: layer(x.flatten(1)), image, label, start, norm, 0.1, 3, 0.1, 2)


def test_a_network_without_gradient_is_refused() -> None:
    network, (image, label) = perceptron(), images()
    for broken in (lambda x: network(x.detach()), lambda x: network(x).detach()):
        with pytest.raises(ValueError, match="no gradient with respect to the image"):
            pgd(broken, image, label, "linf", 0.1, 2, 0.1)


@pytest.mark.parametrize("num_draws", [1, 3])
def test_a_confident_classifier_is_attacked_as_far_as_any(num_draws: int) -> None:
    """The logits are (0, c w.x) with a large c: in float32, the cross-entropy of class-1 images is constant."""
    weight = numbers(64, seed=1).float()
    image = 0.3 + 0.4 * torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    score = (image.flatten(1) - 0.5) @ weight
    label = (score > 0).long()
    weight = 30 * weight / score.abs().median()
    network = half_space(weight, float(0.5 * weight.sum()))
    distance = 30 * score.abs() / score.abs().median() / dual(weight, "linf")
    epsilon = float(distance.sort().values[179:181].mean())
    _, gradient = attacked_with_gradient(network, image, label, num_draws)
    assert (gradient.flatten(1).abs().amax(1) > 0).all()
    torch.manual_seed(0)
    found = pgd(network, image, label, "linf", epsilon, 20, epsilon / 8, num_draws=num_draws)
    assert torch.equal(found.fooled, distance < epsilon)
    assert found.fooled.sum() == 180


def test_log_odds_keep_their_digits_in_float32() -> None:
    z = 40 * numbers(5, 50, 4)
    label = torch.arange(50) % 4
    exact = z.softmax(-1)
    exact = exact[:, torch.arange(50), label], exact.scatter(-1, label.expand(5, -1)[..., None], 0.0).sum(-1)
    of_draws = torch.stack([log_odds(draw.float(), label) for draw in z])
    torch.testing.assert_close(of_draws.double(), (exact[1] / exact[0]).log(), rtol=1e-6, atol=1e-5)
    assert of_draws.abs().max() > 80
    of_mean = log_odds_of_mean(of_draws)
    torch.testing.assert_close(of_mean.double(), (exact[1].sum(0) / exact[0].sum(0)).log(), rtol=1e-6, atol=1e-5)
    assert of_mean.min() < -1 < 1 < of_mean.max()


def test_autocast_to_float16_leaves_an_attack_its_gradients() -> None:
    network, image, label = confident(gap=20)
    attack = PGD("linf", 0.1, random_start=False)
    withstood = {}
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            attacked = attack.perturb(network, image, label)
        withstood[dtype] = float((network(attacked).argmax(1) == label).float().mean())
    assert withstood[torch.float16] == withstood[torch.float32] < 0.1
    assert withstood[torch.bfloat16] < 0.2


@pytest.mark.parametrize("attack", [PGD("linf", 0.1, steps=3), DeepFool(steps=3)])
def test_an_attack_is_called_with_a_network_images_and_labels(attack: PGD | DeepFool) -> None:
    """It equals `perturb` with a generator for each image, and evaluates a network that is being trained."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(18, 3)).double()
    image = images()[0][:4]
    label = network.eval()(image).argmax(dim=1)
    network.train()
    found, again = (attack(network, image, label, torch.Generator().manual_seed(2)) for _ in range(2))
    assert network.training
    seeds = torch.randint(2**31, (len(image),), generator=torch.Generator().manual_seed(2)).tolist()
    given = () if isinstance(attack, DeepFool) else ([generator_of(seed) for seed in seeds],)
    assert torch.equal(found, attack.perturb(network.eval(), image, label, *given))  # type: ignore[arg-type]
    assert torch.equal(found, again)
    assert not torch.equal(found, image)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_pgd_passes_its_settings_on() -> None:
    network, (image, label) = perceptron(), images()
    torch.manual_seed(1)
    found = PGD("l2", 0.15, steps=3, step_size=0.07, restarts=2).perturb(network, image, label)
    torch.manual_seed(1)
    assert torch.equal(found, pgd(network, image, label, "l2", 0.15, 3, 0.07, 2).image)
    still = PGD("linf", 0.05, steps=4, random_start=False).perturb(network, image, label)
    assert torch.equal(still, pgd(network, image, label, "linf", 0.05, 4, 2.5 * 0.05 / 4, 1, False).image)


def test_attacks_are_called_by_norm_and_budget_unless_named() -> None:
    attacks = [PGD("linf", 8 / 255), PGD("l2", 0.5, name="weak")]
    assert different_titles(attacks) == ["pgd_linf_0.03137", "weak"]
    with pytest.raises(ValueError, match="different names, got weak twice: set `name`"):
        different_titles([*attacks, PGD("linf", 0.1, name="weak")])


def test_settings_that_no_attack_can_have_are_refused() -> None:
    with pytest.raises(ValueError, match="restarts 3 needs random_start: true"):
        PGD("linf", 0.1, restarts=3, random_start=False)
    with pytest.raises(ValueError, match="name must consist of letters"):
        PGD("linf", 0.1, name="a b")
