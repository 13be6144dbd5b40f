from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_modules.robustness.attacks.ascent import Network
from lightning_modules.robustness.attacks.minimal import (
    CarliniWagner,
    DeepFool,
    MinimalAttack,
    carlini_wagner_objective,
)
from tests.robustness.attacks.classifiers import SHAPE, numbers

PIXELS = 18
ATTACKS = [DeepFool(), CarliniWagner(steps=60, learning_rate=0.03, initial_constant=1.0, search_steps=3)]


def images(count: int, low: float, high: float, seed: int = 1) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(count, *SHAPE, generator=random, dtype=torch.float64)


def affine(weight: Tensor, bias: Tensor) -> Network:
    """Return a network with logits W x + b."""
    return lambda image: image.flatten(1) @ weight.T + bias


def lengths(perturbation: Tensor) -> Tensor:
    return perturbation.flatten(1).norm(dim=1)


def half_spaces(image: Tensor) -> tuple[Network, Tensor, Tensor, Tensor]:
    """Return a two-class network, the images' classes, and f and w of the other class: f = w.x + b."""
    w = numbers(PIXELS)
    b = -(image.flatten(1) @ w).mean()
    network = affine(torch.stack([torch.zeros(PIXELS), w]), torch.stack([0 * b, b]))
    label = network(image).argmax(dim=1)
    sign = 1.0 - 2 * label.double()
    return network, label, sign * (image.flatten(1) @ w + b), sign[:, None] * w


def nearest_of_many(image: Tensor, classes: int = 6) -> tuple[Network, Tensor, Tensor, Tensor]:
    """Return an affine classifier, image classes, shortest perturbations `[B, 18]`, and the reached classes."""
    weight, bias = numbers(classes, PIXELS), -0.5 * numbers(classes, PIXELS).sum(dim=1)
    network = affine(weight, bias)
    logits = network(image)
    label = logits.argmax(dim=1)
    ways = (logits.amax(dim=1, keepdim=True) - logits) / (weight[label][:, None] - weight).norm(dim=2)
    distance, reached = ways.nan_to_num(torch.inf).min(dim=1)  # 0 / 0 for the image's own class
    return network, label, distance[:, None] * nn.functional.normalize(weight[reached] - weight[label]), reached


def at_the_ends(count: int, low: float) -> Tensor:
    """Draw images; in class 1, an attack pushes the pixels with the largest weights to an end (0 or 1) `low` away."""
    image, most = images(count, 0.1, 0.9), numbers(PIXELS).abs().topk(5).indices
    image.flatten(1)[:, most] = torch.where(numbers(PIXELS)[most] > 0, low, 1 - low).double()
    return image


def shortest_in_the_box(image: Tensor, f: Tensor, w: Tensor) -> Tensor:
    """Solve min ||r|| subject to w.r = -f and x + r in [0, 1]: clip(x + t w) - x with t by bisection."""
    x, low, high = image.flatten(1), torch.zeros(len(image), 1).double(), torch.full((len(image), 1), 1e3).double()
    for _ in range(200):
        middle = (low + high) / 2
        reached = (f + (w * ((x + middle * w).clamp(0, 1) - x)).sum(dim=1) >= 0)[:, None]
        low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
    return (x + high * w).clamp(0, 1) - x


def test_deepfool_lands_on_the_boundary_of_two_classes() -> None:
    image = images(6, 0.4, 0.6)
    network, label, f, w = half_spaces(image)
    assert set(label.tolist()) == {0, 1}
    r = (DeepFool(overshoot=0).perturb(network, image, label) - image).flatten(1)
    torch.testing.assert_close(r.norm(dim=1), f.abs() / w.norm(dim=1), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(r, -f[:, None] * w / w.square().sum(dim=1, keepdim=True), rtol=1e-10, atol=1e-12)


def test_deepfool_lands_on_the_nearest_of_many_boundaries_and_the_overshoot_crosses_it() -> None:
    image = images(40, 0.45, 0.55)
    network, label, shortest, reached = nearest_of_many(image)
    likeliest = network(image).scatter(1, label[:, None], -1e9).argmax(dim=1)
    assert bool((reached != likeliest).any())  # the nearest class need not be the most likely one
    assert float((image.flatten(1) + 1.01 * shortest).clamp(0, 1).sub(image.flatten(1) + 1.01 * shortest).norm()) == 0
    at_boundary = DeepFool(overshoot=0).perturb(network, image, label)
    torch.testing.assert_close((at_boundary - image).flatten(1), shortest, rtol=1e-9, atol=1e-12)
    beyond = DeepFool(overshoot=0.01).perturb(network, image, label)
    torch.testing.assert_close((beyond - image).flatten(1), 1.01 * shortest, rtol=1e-9, atol=1e-12)
    assert torch.equal(network(beyond).argmax(dim=1), reached)
    first_guess = DeepFool(overshoot=0.01, num_candidates=1).perturb(network, image, label)
    assert torch.equal(network(first_guess).argmax(dim=1), likeliest)
    assert bool((lengths(first_guess - image) >= lengths(beyond - image) - 1e-12).all())


def test_deepfool_goes_on_until_it_is_across_a_curved_boundary() -> None:
    """The boundary is a sphere, seen from outside: each linear model undershoots, so one step is not enough."""
    image, R = images(8, 0.0, 1.0), 0.5

    def network(image: Tensor) -> Tensor:
        f = R**2 - (image - 0.5).square().flatten(1).sum(dim=1)
        return torch.stack([torch.zeros_like(f), f], dim=1)

    label = torch.zeros(8, dtype=torch.int64)
    distance = lengths(image - 0.5) - R
    assert float(distance.min()) > 0.3
    found = DeepFool(overshoot=1e-3).perturb(network, image, label)
    assert bool((network(found).argmax(dim=1) == 1).all())
    torch.testing.assert_close(lengths(found - image), distance, rtol=2e-3, atol=0)
    once = DeepFool(overshoot=1e-3, steps=1).perturb(network, image, label)
    assert not bool((network(once).argmax(dim=1) == 1).any())


def test_deepfool_finds_the_shortest_perturbation_in_the_box() -> None:
    image = at_the_ends(20, 0.0)
    network, label, f, w = half_spaces(image)
    expected = shortest_in_the_box(image, f, w)
    beside = f.abs() / w.norm(dim=1)
    assert bool((expected.norm(dim=1) > 1.2 * beside).any())  # the box constraint matters
    found = DeepFool(overshoot=1e-6).perturb(network, image, label)
    assert bool((network(found).argmax(dim=1) != label).all())
    torch.testing.assert_close((found - image).flatten(1), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("confidence", [0.0, 0.1])
def test_the_objective_of_carlini_and_wagner_has_its_gradient(confidence: float) -> None:
    network, image, w = perceptron(), images(30, 0.0, 1.0), 2 * numbers(30, *SHAPE)
    label, c = network(image).argmax(dim=1), torch.linspace(0.1, 10, 30, dtype=torch.float64)
    found = carlini_wagner_objective(network, w, image, label, c, confidence)
    w.requires_grad_()
    total, succeeded = torch.zeros(()), []
    for i in range(30):
        perturbed = w[i].tanh() / 2 + 0.5
        z = network(perturbed[None])[0]
        margin = z[label[i]] - max(z[k] for k in range(4) if k != label[i])
        distance = (perturbed - image[i]).square().sum()
        succeeded.append(bool(margin < -confidence))
        total = total + distance + c[i] * (margin if margin > -confidence else 0 * margin - confidence)
        torch.testing.assert_close(found.image[i], perturbed)
        torch.testing.assert_close(found.distance[i], distance)
    assert found.success.tolist() == succeeded
    assert set(succeeded) == {False, True}
    torch.testing.assert_close(found.gradient, torch.autograd.grad(total, w)[0], rtol=1e-10, atol=1e-12)


def test_carlini_wagner_converges_to_the_shortest_perturbation() -> None:
    image = images(8, 0.4, 0.6)
    network, label, shortest, _ = nearest_of_many(image)
    found = CarliniWagner(steps=300, learning_rate=0.002).perturb(network, image, label)
    assert bool((network(found).argmax(dim=1) != label).all())
    ratio = lengths(found - image) / shortest.norm(dim=1)
    assert float(ratio.min()) >= 1
    assert float(ratio.max()) < 1.02


def test_carlini_wagner_converges_to_the_shortest_perturbation_in_the_box() -> None:
    image = at_the_ends(8, 0.02)
    network, label, f, w = half_spaces(image)
    expected = shortest_in_the_box(image, f, w).norm(dim=1)
    assert bool((expected > 1.1 * f.abs() / w.norm(dim=1)).any())  # the box constraint matters
    found = CarliniWagner(steps=200, learning_rate=0.015).perturb(network, image, label)
    assert bool((network(found).argmax(dim=1) != label).all())
    ratio = lengths(found - image) / expected
    assert float(ratio.min()) >= 1
    assert float(ratio.max()) < 1.05


def test_confidence_is_the_margin_that_is_reached() -> None:
    image, kappa = images(4, 0.45, 0.55), 0.5
    network, label, f, w = half_spaces(image)
    found = CarliniWagner(confidence=kappa, steps=300, learning_rate=0.005).perturb(network, image, label)
    logits = network(found)
    margin = logits.gather(1, 1 - label[:, None]) - logits.gather(1, label[:, None])
    assert float(margin.min()) >= kappa
    torch.testing.assert_close(lengths(found - image), (f.abs() + kappa) / w.norm(dim=1), rtol=0.02, atol=0)


def test_a_constant_that_is_too_small_grows_and_one_that_is_too_large_shrinks() -> None:
    image = images(20, 0.4, 0.6)
    far = nearest_of_many(image)[2].norm(dim=1) > 0.05  # more than a step of Adam, which has a non-zero length
    image = image[far][:4]
    network, label, shortest, _ = nearest_of_many(image)
    options: dict[str, Any] = {"steps": 100, "learning_rate": 0.004}
    once = CarliniWagner(initial_constant=1e-4, search_steps=1, **options).perturb(network, image, label)
    assert torch.equal(once, image)
    longest, shortest_found = {}, []
    for constant, search_steps in ((1e-4, 11), (1e2, 11), (1e2, 1)):
        found = CarliniWagner(initial_constant=constant, search_steps=search_steps, **options).perturb(
            network, image, label
        )
        ratio = lengths(found - image) / shortest.norm(dim=1)
        longest[constant, search_steps] = float(ratio.max())
        shortest_found.append(float(ratio.min()))
    assert min(shortest_found) >= 1
    assert max(longest[1e-4, 11], longest[1e2, 11]) < 1.03 < longest[1e2, 1]


def test_the_constant_grows_tenfold_until_it_succeeds_and_then_halves_the_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For two linearly separated classes, the minimum is across the boundary if c is at least 2 |f| / ||w||^2."""
    image = images(3, 0.4, 0.6)
    network, label, f, w = half_spaces(image)
    image = image - (0.3 + f).view(-1, 1, 1, 1) * (w / w.square().sum(dim=1, keepdim=True)).view_as(image)  # f = -.3
    tried: list[Tensor] = []

    def recording(*arguments: Any) -> Any:
        tried.append(arguments[4])
        return carlini_wagner_objective(*arguments)

    monkeypatch.setattr("lightning_modules.robustness.attacks.minimal.carlini_wagner_objective", recording)
    first = float(2 * 0.3 / w[0].square().sum()) / 50
    options: dict[str, Any] = {"steps": 100, "learning_rate": 0.003, "initial_constant": first, "search_steps": 4}
    found = CarliniWagner(**options).perturb(network, image, label)
    expected = torch.tensor([1.0, 10, 100, 55], dtype=torch.float64) * first
    torch.testing.assert_close(torch.stack(tried[::100]), expected[:, None].expand(-1, 3))
    assert bool((network(found).argmax(dim=1) != label).all())


def perceptron(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 16), nn.Tanh(), nn.Linear(16, 4, bias=False)).to(dtype).eval()


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31), attack=st.sampled_from(ATTACKS))
def test_images_stay_in_the_box_and_those_that_are_wrong_stay_as_they_are(seed: int, attack: MinimalAttack) -> None:
    network = perceptron(torch.float32)
    image = (2 * images(8, 0.0, 1.0, seed) - 0.5).clamp(0, 1).float()  # half of the pixels are at 0 or 1
    label = torch.randint(4, (8,), generator=torch.Generator().manual_seed(seed))
    found = attack.perturb(network, image, label)
    assert found.dtype == image.dtype
    assert not found.requires_grad
    assert bool(((found >= 0) & (found <= 1)).all())
    wrong = network(image).argmax(dim=1) != label
    assert torch.equal(found[wrong], image[wrong])
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.title)
def test_an_image_is_attacked_as_if_it_were_alone(attack: MinimalAttack) -> None:
    network, image = perceptron(), images(6, 0.2, 0.8)
    label = network(image).argmax(dim=1)
    label[2] = (label[2] + 1) % 4
    together = attack.perturb(network, image, label)
    alone = torch.cat([attack.perturb(network, image[[i]], label[[i]]) for i in range(6)])
    assert bool((together != image).flatten(1).any(dim=1)[[0, 1, 3, 4, 5]].all())
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.title)
def test_what_cannot_be_fooled_is_no_worse_for_it(attack: MinimalAttack) -> None:
    image, label = images(3, 0.0, 1.0), torch.zeros(3, dtype=torch.int64)

    def without_slope(image: Tensor) -> Tensor:
        return torch.stack([image.flatten(1).sum(dim=1) * 0 + 1, torch.zeros(len(image)).double()], dim=1)

    assert torch.equal(attack.perturb(without_slope, image, label), image)
    assert torch.equal(attack.perturb(lambda image: without_slope(image) * float("nan"), image, label), image)
    with pytest.raises(ValueError, match="logits have no gradient with respect to the image"):
        attack.perturb(lambda image: without_slope(image).detach(), image, label)
    assert attack.perturb(without_slope, image[:0], label[:0]).shape == (0, *SHAPE)


def test_titles_are_names() -> None:
    assert [attack.title for attack in ATTACKS] == ["deepfool", "carlini_wagner"]
    assert DeepFool(name="other").title == "other"
    with pytest.raises(ValueError, match="name must consist of letters"):
        DeepFool(name="a b")
