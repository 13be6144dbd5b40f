"""The surrogate of NDCG compared with finite differences of its objective, and NDCG compared with scikit-learn's.

The lower-level problems for ranks agree with the authors' code, and thresholds with the minimum that defines them.
"""

import pytest
import torch
from sklearn.metrics import ndcg_score
from torch import Tensor

from lightning_modules.optimization.mbbo import ranking
from lightning_modules.optimization.mbbo.ranking import (
    LowerLevels,
    Threshold,
    best_dcg,
    hinges,
    listwise,
    ndcg,
    rank_gain,
    surrogate,
    threshold_slope,
)
from tests.numbers import numbers

USERS, ITEMS, RATED, TOP = 3, 9, 4, 3


def threshold_of(score: Tensor) -> Tensor:
    """Find l by bisection."""
    low, high = torch.full((USERS,), -50.0).double(), torch.full((USERS,), 50.0).double()
    for _ in range(100):
        middle = (low + high) / 2
        positive = threshold_slope(middle, score, TOP, ITEMS)[0] > 0
        low, high = torch.where(positive, low, middle), torch.where(positive, middle, high)
    return middle


def objective(score: Tensor, gain: Tensor, weight: Tensor, top: bool) -> Tensor:
    """Compute minus the NDCG, with hinges for ranks and exact solutions of all lower-level problems."""
    value = rank_gain(hinges(score, RATED), gain, ITEMS)[0]
    if top:
        above = torch.sigmoid(ranking.SLOPE * (score[:, :RATED] - threshold_of(score)[:, None]))
        value = value * ranking.PSI * above
    return (weight * value.mean(1)).sum()


@pytest.mark.parametrize("top", [False, True])
def test_the_gradient_is_that_of_the_solved_problem(top: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "TAU_1", 0.5)  # a steep sigmoid is unsuitable for finite differences
    score, gain, weight = numbers(USERS, ITEMS).requires_grad_(), 2 ** numbers(USERS, RATED, seed=1), torch.rand(USERS)
    weight, g, threshold = weight.double(), hinges(score, RATED), None
    if top:
        value = threshold_of(score.detach())
        threshold = Threshold(value, *threshold_slope(value, score.detach(), TOP, ITEMS)[1:])
    made = surrogate(score, g, g.detach(), gain, weight, ITEMS, threshold)
    (gradient,) = torch.autograd.grad(made, score)
    steps = 1e-5 * torch.eye(USERS * ITEMS, dtype=torch.float64).view(-1, USERS, ITEMS)
    difference = [
        (objective(score.detach() + step, gain, weight, top) - objective(score.detach() - step, gain, weight, top))
        / 2e-5
        for step in steps
    ]
    torch.testing.assert_close(gradient, torch.stack(difference).view(USERS, ITEMS), rtol=1e-6, atol=1e-8)


def test_the_derivatives_of_the_thresholds_level_are_autograds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "TAU_1", 0.5)
    value, score = numbers(USERS, seed=2).requires_grad_(), numbers(USERS, ITEMS).requires_grad_()
    soft = torch.nn.functional.softplus((score - value[:, None]) / 0.5).mean(1) * 0.5
    level = TOP / ITEMS * value + ranking.TAU_2 / 2 * value**2 + soft
    (slope,) = torch.autograd.grad(level.sum(), value, create_graph=True)
    curvature, mixed = torch.autograd.grad(slope.sum(), (value, score))
    found = threshold_slope(value.detach(), score.detach(), TOP, ITEMS)
    for ours, theirs in zip(found, (slope, curvature, -ITEMS * mixed), strict=True):
        torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-12)


def test_a_threshold_has_k_items_above_it() -> None:
    score = numbers(USERS, ITEMS)
    ordered, found = score.sort(descending=True).values, threshold_of(score)
    assert (ordered[:, TOP - 1] > found - 0.02).all()
    assert (ordered[:, TOP] < found + 0.02).all()


def test_hinges_of_a_large_margin_count_what_is_ranked_above() -> None:
    score = torch.tensor([[0.0, 50.0, -50.0, 20.0]])
    assert hinges(score, 3).tolist() == [[(1 + 51**2 + 21**2) / 4, 1 / 4, (51**2 + 101**2 + 1 + 71**2) / 4]]


@pytest.mark.parametrize("top", [1, 3, 20])
def test_ndcg_is_scikit_learns(top: int) -> None:
    score, rating = numbers(USERS, ITEMS), (numbers(USERS, ITEMS, seed=1) * 3).clamp(0, 5).round()
    none = torch.zeros(USERS, ITEMS, dtype=torch.bool)
    expected = [
        ndcg_score([(2 ** rating[user] - 1).numpy()], [score[user].numpy()], k=min(top, ITEMS)) for user in range(USERS)
    ]
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            assert ndcg(score, rating, none, top).tolist() == pytest.approx(expected)


def test_excluded_items_are_ranked_nowhere_and_users_without_ratings_have_zero() -> None:
    score, rating = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]]), torch.tensor([[0.0, 5.0, 0.0], [0.0, 0.0, 0.0]])
    excluded = torch.tensor([[True, False, False], [False, False, False]])
    assert ndcg(score, rating, excluded, 1).tolist() == [1.0, 0.0]
    assert ndcg(score, rating, torch.zeros_like(excluded), 1).tolist() == [0.0, 0.0]
    assert best_dcg(torch.tensor([[1.0, 2.0]]), 5).item() == pytest.approx(3 + 1 / torch.log2(torch.tensor(3.0)).item())


def test_listwise_cross_entropy_is_of_each_rated_item_among_the_others() -> None:
    score = numbers(USERS, ITEMS)
    expected = 0.0
    for place in range(RATED):
        among = torch.cat([score[:, place : place + 1], score[:, RATED:]], dim=1)
        expected -= among.log_softmax(1)[:, 0].sum().item() / RATED
    assert listwise(score, RATED).item() == pytest.approx(expected)


TABLE_USERS, TABLE_ITEMS, TABLE_RATED = 3, 12, 2
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
"""Values of the authors' loss in float64 for the scores below: the loss values, and the first five derivatives at the
current and the previous iterate. The authors' code computes the best DCG in single precision."""


def scores(time: int) -> Tensor:
    return torch.sin(
        1.7 * torch.arange(TABLE_USERS * 6, dtype=torch.float64).view(TABLE_USERS, 6) + 0.3 * time
    ).requires_grad_()


def levels() -> LowerLevels:
    made = LowerLevels(0.9, 0.005, 0.4)
    made.allocate(TABLE_USERS, TABLE_ITEMS, torch.device("cpu"), torch.float64)
    return made


def test_u_and_the_gradients_are_the_authors() -> None:
    own, user = levels(), torch.arange(TABLE_USERS)
    weight = TABLE_RATED / best_dcg(RATING, TABLE_ITEMS) / TABLE_USERS
    for time in range(3):
        score, past = scores(time), scores(time - 1)
        g, g_past = hinges(score, TABLE_RATED), hinges(past, TABLE_RATED)
        still = g_past.detach() if time else None
        u, u_past = own.move(user, ITEM[:, :TABLE_RATED], g.detach(), still, TABLE_ITEMS, TABLE_USERS)
        value = surrogate(score, g, u, 2**RATING - 1, weight, TABLE_ITEMS)
        (gradient,) = torch.autograd.grad(value, score)
        assert value.item() == pytest.approx(LOSSES[time], rel=1e-7)
        assert gradient[:, :3].flatten()[:5].tolist() == pytest.approx(GRADIENTS[time], rel=1e-7)
        if time:
            value = surrogate(past, g_past, u_past, 2**RATING - 1, weight, TABLE_ITEMS)
            (gradient,) = torch.autograd.grad(value, past)
            assert gradient[:, :3].flatten()[:5].tolist() == pytest.approx(BEFORE[time - 1], rel=1e-7)
    ranks = own.checkpoint_state()[0]
    assert ranks[0, [0, 3]].tolist() == pytest.approx([0.9045344266565245, 0.3524145802016373])
    assert ranks[2, [TABLE_ITEMS + 5, TABLE_ITEMS]].tolist() == pytest.approx(
        [-0.19344612141001727, -1.754544910955755]
    )


def test_items_and_users_that_are_not_in_a_batch_stay() -> None:
    own, user = levels(), torch.tensor([2])
    own.move(user, ITEM[2:, :TABLE_RATED], torch.ones(1, TABLE_RATED).double(), None, TABLE_ITEMS, 1)
    ranks = own.checkpoint_state()[0]
    assert ranks.nonzero().tolist() == [[2, 0], [2, 5], [2, TABLE_ITEMS], [2, TABLE_ITEMS + 5]]
    other = LowerLevels(0.9, 0.005, 0.4)
    other.restore(own.checkpoint_state())
    other.allocate(TABLE_USERS, TABLE_ITEMS, torch.device("cpu"), torch.float64)
    assert torch.equal(other.checkpoint_state()[0], ranks)


def test_thresholds_go_to_where_k_items_are_above() -> None:
    own, score = levels(), torch.linspace(-1, 1, TABLE_ITEMS).double().expand(TABLE_USERS, -1)
    for _ in range(400):
        now, past = own.move_thresholds(torch.arange(TABLE_USERS), score, score, 3, TABLE_ITEMS, TABLE_USERS)
    assert ((score > now.value[:, None]).sum(1) - 3).abs().max() <= 1
    torch.testing.assert_close(past.value, now.value, rtol=0, atol=1e-3)
    assert now.curvature.min() >= 1e-4


def test_a_threshold_moves_by_a_hundredth_of_its_tracked_slope() -> None:
    """At threshold 0, the slope is 3 / 12 - 6 / 12: six of the twelve scores are above it, and three should be."""
    score = torch.linspace(-1, 1, TABLE_ITEMS).double().expand(TABLE_USERS, -1)
    now, past = levels().move_thresholds(torch.arange(TABLE_USERS), score, None, 3, TABLE_ITEMS, TABLE_USERS)
    for moved in (now.value, past.value):  # the weight of a batch in the tracker is .9
        torch.testing.assert_close(moved, torch.full_like(moved, 0.01 * 0.9 * 0.25), rtol=1e-12, atol=0)
