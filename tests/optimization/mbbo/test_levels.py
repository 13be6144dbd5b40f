"""Lower levels of rankings against the authors' code, and thresholds against their minimum."""

import pytest
import torch
from torch import Tensor

from lightning_modules.optimization.mbbo.levels import LowerLevels
from lightning_modules.optimization.mbbo.ranking import best_dcg, hinges, surrogate

USERS, ITEMS, RATED = 3, 12, 2
ITEM = torch.tensor([[0, 3, 5, 7, 9, 11], [1, 2, 4, 6, 8, 10], [5, 0, 3, 1, 2, 7]])
RATING = torch.tensor([[5.0, 3.0], [4.0, 1.0], [2.0, 5.0]]).double()
GRADIENTS = [
    [-0.11483539793435979, -0.09853524330869246, 0.014113284591515654, -0.08763721192604197, 0.005455073962871804],
    [-0.03677242303839721, -0.03869455218985363, 0.0018682405543669625, -0.03328414816111069, 0.0027966326680412797],
    [-0.026036752136238763, -0.019312142611688284, 0.0, -0.021179252956361402, 0.0021199642205209437],
]
BEFORE = [
    [-0.04578722252626675, -0.03279196634350664, 0.005622232102428447, -0.03589015186370162, 0.0022514325753308726],
    [-0.031622442212686154, -0.020498255300910123, 0.0014970112056782844, -0.021647445928005278, 0.0015133173696300932],
]
LOSSES = [0.44940758030114286, 0.17111971011106034, 0.11312952335193253]
"""What the authors' loss gave, in float64, for the scores below: its first five derivatives, at this iterate and the
last, and its values; their best DCG is in single precision."""


def scores(time: int) -> Tensor:
    return torch.sin(1.7 * torch.arange(USERS * 6, dtype=torch.float64).view(USERS, 6) + 0.3 * time).requires_grad_()


def levels() -> LowerLevels:
    made = LowerLevels(0.9, 0.005, 0.4, 0.01)
    made.allocate(USERS, ITEMS, torch.device("cpu"), torch.float64)
    return made


def test_u_and_the_gradients_are_the_authors() -> None:
    own, user = levels(), torch.arange(USERS)
    weight = RATED / best_dcg(RATING, ITEMS) / USERS
    for time in range(3):
        score, past = scores(time), scores(time - 1)
        g, g_past = hinges(score, RATED), hinges(past, RATED)
        still = g_past.detach() if time else None
        u, u_past = own.move(user, ITEM[:, :RATED], g.detach(), still, ITEMS, USERS)
        value = surrogate(score, g, u, 2**RATING - 1, weight, ITEMS)
        (gradient,) = torch.autograd.grad(value, score)
        assert value.item() == pytest.approx(LOSSES[time], rel=1e-7)
        assert gradient[:, :3].flatten()[:5].tolist() == pytest.approx(GRADIENTS[time], rel=1e-7)
        if time:
            value = surrogate(past, g_past, u_past, 2**RATING - 1, weight, ITEMS)
            (gradient,) = torch.autograd.grad(value, past)
            assert gradient[:, :3].flatten()[:5].tolist() == pytest.approx(BEFORE[time - 1], rel=1e-7)
    ranks = own.kept()[0]
    assert ranks[0, [0, 3]].tolist() == pytest.approx([0.9045344266565245, 0.3524145802016373])
    assert ranks[2, [ITEMS + 5, ITEMS]].tolist() == pytest.approx([-0.19344612141001727, -1.754544910955755])


def test_items_and_users_that_are_not_in_a_batch_stay() -> None:
    own, user = levels(), torch.tensor([2])
    own.move(user, ITEM[2:, :RATED], torch.ones(1, RATED).double(), None, ITEMS, 1)
    ranks = own.kept()[0]
    assert ranks.nonzero().tolist() == [[2, 0], [2, 5], [2, ITEMS], [2, ITEMS + 5]]
    other = LowerLevels(0.9, 0.005, 0.4, 0.01)
    other.restore(own.kept())
    other.allocate(USERS, ITEMS, torch.device("cpu"), torch.float64)
    assert torch.equal(other.kept()[0], ranks)


def test_thresholds_go_to_where_k_items_are_above() -> None:
    own, score = levels(), torch.linspace(-1, 1, ITEMS).double().expand(USERS, -1)
    for _ in range(400):
        now, past = own.move_thresholds(torch.arange(USERS), score, score, 3, ITEMS, USERS)
    assert ((score > now.value[:, None]).sum(1) - 3).abs().max() <= 1
    torch.testing.assert_close(past.value, now.value, rtol=0, atol=1e-3)
    assert now.curvature.min() >= 1e-4
