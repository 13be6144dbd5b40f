"""Estimates from sampled pairs: unbiased, with the variance and the winners of the closed forms."""

import pytest
import torch
from torch import Tensor

from lightning_modules.efficiency.wta_crs.estimator import (
    Estimator,
    budget,
    chosen_pairs,
    num_winners,
    pair_probabilities,
)
from tests.numbers import numbers

M, K, DRAWS = 12, 4, 20_000


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


H, G = numbers(M, 3), numbers(M, 2, seed=1) * torch.logspace(0, 1.5, M, dtype=torch.float64)[:, None]
PAIRS = torch.einsum("io,id->iod", G, H)
P = pair_probabilities(H, G.norm(dim=1))


def estimates(estimator: Estimator, p: Tensor = P, k: int = K, draws: int = DRAWS) -> Tensor:
    """Return estimates of G^T H, `[draws, 2, 3]`; each row of p is a separate sampled product with the same winners."""
    position, weight = chosen_pairs(p.expand(draws, -1), k, uniform(draws, k), estimator)
    return torch.einsum("nk,nkod->nod", weight, PAIRS[position])


def closed_form(p: Tensor, k: int, c: int) -> float:
    """Return the variance, summed over the entries, for the optimal p and c winners."""
    order = p.argsort(descending=True)
    rest = PAIRS[order[c:]].sum(dim=0)
    total = PAIRS.flatten(1).norm(dim=1).sum() * (1 - p[order[:c]].sum())
    return float((total**2 - (rest**2).sum()) / (k - c))


@pytest.mark.parametrize("estimator", ["wta_crs", "crs"])
def test_the_mean_is_the_product_and_the_variance_is_the_closed_form(estimator: Estimator) -> None:
    c = int(num_winners(P.sort().values.cumsum(0)[None], K)) if estimator == "wta_crs" else 0
    drawn, exact = estimates(estimator), G.T @ H
    deviation = drawn.std(dim=0) / DRAWS**0.5
    assert ((drawn.mean(dim=0) - exact).abs() < 4 * deviation).all()
    variance = float(((drawn - exact) ** 2).sum(dim=(1, 2)).mean())
    assert variance == pytest.approx(closed_form(P, K, c), rel=0.03)
    assert (c > 0) == (estimator == "wta_crs")


def test_any_probabilities_are_unbiased() -> None:
    p = uniform(M, seed=5) + 0.1  # not the probabilities of the pairs
    drawn = estimates("wta_crs", p / p.sum())
    deviation = drawn.std(dim=0) / DRAWS**0.5
    assert ((drawn.mean(dim=0) - G.T @ H).abs() < 4 * deviation).all()


def test_winners_lower_the_variance_wherever_they_have_more_than_their_share() -> None:
    descending = P.sort(descending=True).values.cumsum(0)
    for k in range(2, M):
        for c in range(1, k):
            if descending[c - 1] > c / k:
                assert closed_form(P, k, c) <= closed_form(P, k, 0)


@pytest.mark.parametrize(
    ("p", "winners"),
    [
        (torch.ones(40), (0, 0, 0, 0)),
        (0.8 ** torch.arange(40.0), (1, 6, 16, 26)),
        (1 / torch.arange(1.0, 41), (1, 2, 7, 15)),
    ],
)
def test_the_number_of_winners_follows_the_tail(p: Tensor, winners: tuple[int, ...]) -> None:
    p = p.double() / p.double().sum()
    sums = p.sort().values.cumsum(0)[None]
    assert tuple(int(num_winners(sums, k)) for k in (5, 10, 20, 30)) == winners
    for k, c in zip((5, 10, 20, 30), winners, strict=True):
        tail = 1 - torch.cat([torch.zeros(1), p.sort(descending=True).values.cumsum(0)])
        assert c == min(range(k), key=lambda c: (round(float(tail[c] / (k - c)), 12), c))


def test_products_share_their_winners() -> None:
    steep, flat = 0.5 ** torch.arange(40.0).double(), torch.ones(40).double()
    both = torch.stack([steep / steep.sum(), flat / flat.sum()])
    alone = [int(num_winners(row.sort().values.cumsum(0)[None], 20)) for row in both]
    shared = int(num_winners(both.sort(dim=-1).values.cumsum(-1), 20))
    assert alone[1] == 0 < shared < 20
    _, weight = chosen_pairs(both, 20, uniform(2, 20))
    assert (weight[0, :shared] == 1).all()
    assert (weight[1, :shared] == 1).all()
    assert (weight[1, shared:] != 1).all()


def test_winners_and_draws_are_disjoint_and_equal_pairs_are_exact_in_each_draw() -> None:
    position, weight = chosen_pairs(P.expand(500, -1), K, uniform(500, K))
    wins = weight == 1
    for row, certain in zip(position, wins, strict=True):
        assert not set(row[certain].tolist()) & set(row[~certain].tolist())
    _, weight = chosen_pairs(torch.full((500, M), 1 / M, dtype=torch.float64), K, uniform(500, K))
    torch.testing.assert_close(weight.sum(dim=1), torch.full((500,), float(M), dtype=torch.float64))


def test_nothing_is_drawn_where_winners_have_all() -> None:
    p = torch.tensor([[0.0, 0.7, 0.0, 0.3, 0.0]], dtype=torch.float64)
    for u in (0.0, 1 - 1e-16):
        position, weight = chosen_pairs(p, 3, torch.full((1, 3), u, dtype=torch.float64))
        assert position[0, :2].tolist() == [1, 3]
        assert weight.tolist() == [[1, 1, 0]]


def test_the_most_probable_have_weight_one_in_top_k() -> None:
    position, weight = chosen_pairs(P[None], K, uniform(1, K), "top_k")
    assert position[0].tolist() == P.argsort(descending=True)[:K].tolist()
    assert (weight == 1).all()


def test_probabilities_are_norms_in_single_precision() -> None:
    rows = torch.full((2, 300), 1000.0, dtype=torch.float16)  # its squared norm exceeds the range of half precision
    torch.testing.assert_close(pair_probabilities(rows, torch.tensor([1.0, 3.0])), torch.tensor([0.25, 0.75]))
    torch.testing.assert_close(pair_probabilities(rows * 0, None), torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize(
    ("pairs", "ratio", "k"), [(100, 0.3, 30), (20, 0.3, 10), (7, 0.3, 7), (1, 0.1, 1), (50, 1.0, 50)]
)
def test_the_budget_is_at_least_ten_and_at_most_all(pairs: int, ratio: float, k: int) -> None:
    assert budget(pairs, ratio) == k
