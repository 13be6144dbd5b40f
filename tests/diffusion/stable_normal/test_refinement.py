import math

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from lightning_modules.diffusion.stable_normal.refinement import refine, refinement_times
from lightning_modules.sde.discrete import scheduler_levels

ABAR = scheduler_levels(DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"))


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_half_of_the_times_stay_at_one_level() -> None:
    assert refinement_times(10) == [401] * 6 + [301, 201, 101, 1]
    assert refinement_times(4) == [251, 251, 251, 1]
    assert refinement_times(20) == [451] * 11 + list(range(401, 0, -50))
    assert refinement_times(5) == [401, 401, 401, 201, 1]
    assert refinement_times(1) == [1]
    assert refinement_times(10, repeated=False) == list(range(901, 0, -100))
    with pytest.raises(ValueError, match="steps must be in"):
        refinement_times(501)


class Recorded:
    """A refiner that stores its inputs."""

    def __init__(self, estimates: Tensor) -> None:
        self.estimates, self.seen = estimates, []

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.seen.append((x, int(t[0])))
        return self.estimates[len(self.seen) - 1]


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 10, 20])
def test_steps_are_those_of_the_authors_scheduler(steps: int) -> None:
    """Compare with a plain float64 computation of each branch, with estimates that change from step to step."""
    estimates, noise = randn(steps, 2, 3, 4, 4), randn(steps, 2, 3, 4, 4, seed=1)
    drawn = []

    def draw(like: Tensor) -> Tensor:
        drawn.append(like.shape)
        return noise[len(drawn) - 1]

    refiner, start, times = Recorded(estimates), randn(2, 3, 4, 4, seed=2), refinement_times(steps)
    found = refine(refiner, start, times, ABAR, draw)
    x, M, gap, used = start, steps // 2, 1000 // steps, 0
    for k, t in enumerate(times):
        given, told = refiner.seen[k]
        assert told == t
        torch.testing.assert_close(given, x, rtol=0, atol=1e-12)
        previous = [*times[1:], 0][k]
        if k + 1 < M:
            x = math.sqrt(ABAR[t]) * estimates[k] + math.sqrt(1 - ABAR[t]) * noise[used]
            used += 1
            continue
        at = t + gap if k + 1 == M and t == previous else t
        e = (x - math.sqrt(ABAR[at]) * estimates[k]) / math.sqrt(1 - ABAR[at])
        x = math.sqrt(ABAR[previous]) * estimates[k] + math.sqrt(1 - ABAR[previous]) * e
    assert len(drawn) == used == max(M - 1, 0)
    assert torch.equal(found, estimates[-1])


def test_the_step_that_leaves_the_level_takes_its_start_for_a_noisier_one() -> None:
    estimates = randn(10, 1, 1, 2, 2)
    refiner = Recorded(estimates)
    refine(refiner, randn(1, 1, 2, 2, seed=2), refinement_times(10), ABAR, torch.zeros_like)
    x, clean = refiner.seen[4][0], estimates[4]
    e = (x - math.sqrt(ABAR[501]) * clean) / math.sqrt(1 - ABAR[501])
    expected = math.sqrt(ABAR[401]) * clean + math.sqrt(1 - ABAR[401]) * e
    torch.testing.assert_close(refiner.seen[5][0], expected, rtol=0, atol=1e-12)


def test_with_the_truth_for_its_estimate_the_result_is_the_truth_and_noise_has_the_level() -> None:
    truth = randn(1, 3, 2, 2).expand(4000, -1, -1, -1)
    random = torch.Generator().manual_seed(3)

    def draw(like: Tensor) -> Tensor:
        return torch.randn(like.shape, dtype=like.dtype, generator=random)

    refiner = Recorded(truth.expand(10, *truth.shape))
    assert torch.equal(refine(refiner, 5 * truth + 1, refinement_times(10), ABAR, draw), truth)
    for x, t in refiner.seen[1:5]:
        assert t == 401
        torch.testing.assert_close(x.mean(dim=0), math.sqrt(ABAR[401]) * truth[0], rtol=0, atol=0.06)
        torch.testing.assert_close(x.var(dim=0), torch.full_like(truth[0], 1 - ABAR[401]), rtol=0, atol=0.06)
