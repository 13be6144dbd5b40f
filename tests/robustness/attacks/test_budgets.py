import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_modules.robustness.attacks.ascent import (
    PGD,
    Norm,
    pgd,
    project_perturbation,
    random_start,
    require_gradients,
    size,
    steepest_ascent,
)
from tests.robustness.attacks.classifiers import SHAPE, dual, images, numbers, perceptron


@settings(max_examples=30, deadline=None)
@given(
    norm=st.sampled_from(["linf", "l2"]),
    epsilon=st.floats(1e-3, 3.0),
    steps=st.integers(1, 4),
    step_size=st.floats(1e-3, 2.0),
    scale=st.sampled_from([1e-30, 1.0, 1e20]),
    seed=st.integers(0, 1000),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_budget_and_range_are_kept(
    norm: Norm, epsilon: float, steps: int, step_size: float, scale: float, seed: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(seed)
    image = torch.rand(3, *SHAPE, dtype=dtype).round(decimals=1)  # some pixels are 0 or 1
    layer = nn.Linear(18, 4).to(dtype)
    network = lambda image: scale * layer(image.flatten(1))  # noqa: E731
    start = random_start(image, norm, epsilon)
    found = pgd(network, image, torch.tensor([0, 1, 2]), norm, epsilon, steps, step_size, restarts=2).image
    for perturbed in (start, found):
        assert perturbed.dtype == dtype
        assert (size(perturbed - image, norm) <= epsilon + 1e-6).all()
        assert ((perturbed >= 0) & (perturbed <= 1)).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_projection_is_the_nearest_point_of_the_ball(norm: Norm) -> None:
    image = torch.full((4, *SHAPE), 0.5, dtype=torch.float64)
    moved = image + 0.05 * numbers(4, *SHAPE)
    inside = image + 0.001 * numbers(4, *SHAPE).sign()
    torch.testing.assert_close(project_perturbation(inside, image, norm, 0.05), inside, rtol=0, atol=1e-15)
    nearest = project_perturbation(moved, image, norm, 0.05)
    for _ in range(50):
        other = project_perturbation(image + numbers(4, *SHAPE), image, norm, 0.05)
        assert (size(moved - nearest, "l2") <= size(moved - other, "l2")).all()
    assert torch.equal(project_perturbation(nearest, image, norm, 1.0), nearest)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_starts_are_uniform_in_the_ball(norm: Norm) -> None:
    """The share within a radius r is (r / epsilon)^d, and the direction is uniform."""
    torch.manual_seed(0)
    image = torch.full((20_000, 1, 1, 3), 0.5, dtype=torch.float64)
    drawn = random_start(image, norm, 0.2) - image
    for radius in (0.05, 0.1, 0.15):
        share = (size(drawn, norm) < radius).double().mean()
        expected = (radius / 0.2) ** 3
        assert share == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 20_000))
    assert drawn.mean(0).abs().max() < 4 * 0.2 / math.sqrt(20_000)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_step_is_the_steepest_one(norm: Norm) -> None:
    gradient = numbers(5, *SHAPE)
    gradient[1] *= 1e-170  # its squares underflow
    gradient[2] *= 1e200  # its squares overflow
    step = steepest_ascent(gradient, norm)
    torch.testing.assert_close(size(step, norm), torch.ones(5, dtype=torch.float64))
    for g, s in zip(gradient, step, strict=True):
        scaled = g.flatten() / g.abs().max()
        assert scaled @ s.flatten() == pytest.approx(dual(scaled, norm), rel=1e-12)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_without_a_gradient_there_is_no_step(norm: Norm) -> None:
    gradient = numbers(3, *SHAPE)
    gradient[0], gradient[1, 0] = 0.0, math.nan
    step = steepest_ascent(gradient, norm)
    assert step.isfinite().all()
    assert (step[0] == 0).all()
    assert (step[1, 0] == 0).all()
    image, label = images()
    flat = pgd(lambda x: 0 * x.flatten(1)[:, :4], image, label, norm, 0.1, 3, 0.1, starts_at_random=False)
    assert torch.equal(flat.image, image)
    assert torch.equal(flat.fooled, label != 0)


def test_weights_in_float16_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"PGD needs gradients, .* trainer.precision 16-true: use 16-mixed"):
        require_gradients("16-true", "PGD")
    for precision in ("16-mixed", "bf16-true", "32-true"):
        require_gradients(precision, "PGD")


@pytest.mark.parametrize(("known", "passes"), [(False, 12), (True, 11)])
def test_ten_steps_take_eleven_passes_and_one_for_the_images_if_their_logits_are_unknown(
    known: bool, passes: int
) -> None:
    network, (image, label), calls = perceptron(), images(), []

    def counted(given: torch.Tensor) -> torch.Tensor:
        calls.append(len(given))
        return network(given)

    logits = network(image) if known else None
    torch.manual_seed(3)
    found = PGD("linf", 0.03, steps=10).perturb(counted, image, label, logits=logits)
    assert len(calls) == passes
    torch.manual_seed(3)
    assert torch.equal(found, PGD("linf", 0.03, steps=10).perturb(network, image, label))
