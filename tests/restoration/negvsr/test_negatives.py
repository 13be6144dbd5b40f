import math

import pytest
import torch
from torch import Tensor

from lightning_modules.restoration.negvsr import negatives
from lightning_modules.restoration.negvsr.negatives import Negatives, turned_patches


def clip(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*(shape or (2, 3, 3, 8, 12)), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one_turn(given: Tensor, quarters: Tensor) -> Tensor:
    """Rotate the patches one by one in a loop, like the authors' code."""
    made, side = given.clone(), given.shape[3] // quarters.shape[2]
    for place in torch.cartesian_prod(*(torch.arange(size) for size in quarters.shape)).tolist():
        b, t, r, s = place
        rows, columns = (slice(side * each, side * (each + 1)) for each in (r, s))
        patch = given[b, t, :, rows, columns]
        made[b, t, :, rows, columns] = torch.rot90(patch, int(quarters[b, t, r, s]), dims=(1, 2))
    return made


@pytest.mark.parametrize("side", [1, 2, 4])
def test_patches_turn_in_place_as_one_after_the_other(side: int) -> None:
    given = clip()
    quarters = torch.randint(5, (2, 3, 8 // side, 12 // side), generator=torch.Generator().manual_seed(1))
    made = turned_patches(given, quarters)
    torch.testing.assert_close(made, one_turn(given, quarters), rtol=0, atol=0)
    patches = [each.unfold(3, side, side).unfold(4, side, side).flatten(5).sort().values for each in (made, given)]
    torch.testing.assert_close(*patches, rtol=0, atol=0)


@pytest.mark.parametrize("quarter", [0, 4])
def test_no_quarter_and_four_are_the_identity(quarter: int) -> None:
    given = clip()
    assert torch.equal(turned_patches(given, torch.full((2, 3, 2, 3), quarter)), given)


def with_probability(tenths: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(negatives, "shared_sample", lambda draw, device: torch.tensor(tenths))


def test_a_mixture_of_nothing_and_no_turn_is_the_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    given, noise = clip(), clip(seed=1)
    with_probability(0, monkeypatch)
    torch.testing.assert_close(Negatives(mixture=0).of(given, noise), given, rtol=0, atol=0)
    torch.testing.assert_close(Negatives(mixture=1).of(given, noise), noise, rtol=0, atol=0)
    torch.testing.assert_close(Negatives(mixture=0.25).of(given, noise), 0.75 * given + 0.25 * noise)


@pytest.mark.parametrize("tenths", [3, 9])
def test_three_of_five_turns_change_a_patch(tenths: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    given = clip(4, 10, 1, 64, 64)
    with_probability(tenths, monkeypatch)
    made = Negatives(mixture=0).of(given, given)
    changed = (made != given).unfold(3, 4, 4).unfold(4, 4, 4).flatten(5).any(dim=5)
    expected, count = tenths / 10 * 3 / 5, changed.numel()
    assert count == 4 * 10 * 16 * 16
    assert abs(float(changed.double().mean()) - expected) < 4 * math.sqrt(expected * (1 - expected) / count)


def test_the_probability_is_one_of_ten_and_one_for_a_step() -> None:
    torch.manual_seed(0)
    given, shares = clip(2, 2, 1, 64, 64), []
    for _ in range(60):
        made = Negatives(mixture=0).of(given, given)
        changed = (made != given).unfold(3, 4, 4).unfold(4, 4, 4).flatten(5).any(dim=5).double().mean(dim=(1, 2, 3, 4))
        shares.append(changed)
    share = torch.stack(shares)
    assert (share.diff(dim=1).abs() < 0.12).all()  # both clips of a step use the same probability
    tenths = (share.mean(dim=1) / 0.06).round()
    assert tenths.min() == 0
    assert tenths.max() == 9
    assert len(tenths.unique()) >= 8


def test_gradients_reach_each_pixel_once() -> None:
    torch.manual_seed(0)
    given = clip().requires_grad_()
    Negatives(mixture=0.25).of(given, clip(seed=1)).sum().backward()
    torch.testing.assert_close(given.grad, torch.full_like(given, 0.75))
