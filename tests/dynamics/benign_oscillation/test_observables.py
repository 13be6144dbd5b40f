"""Counts of an oscillation, and inner products of filters."""

import torch

from datamodules.tables.feature_noise import FeatureNoise
from lightning_modules.dynamics.benign_oscillation.observables import inner_products, oscillation, right_answers
from lightning_modules.dynamics.benign_oscillation.patch_network import points_of


def test_draws_count_from_the_first_overshoot_until_the_weak_feature_is_learned() -> None:
    signed = torch.tensor([[0.2, 1.5, 9.0], [1.3, 0.9, 0.5], [0.9, 0.5, 0.5], [7.0, 1.1, 0.5]]).double()
    strong = torch.tensor([[1, 0, 1], [1, 1, 1], [1, 1, 1], [0, 1, 1]]).double()
    nothing, learned = torch.zeros(3, dtype=torch.bool), torch.tensor([False, False, True])
    counts, overshot = oscillation(signed, strong, 0.2, nothing, learned)
    # The first network counts from its second draw on. The second network counts only in its last draw, because its 1.5
    # belongs to a point with the weak feature.
    expected = torch.tensor([[2, 1, 0], [0.3**2 + 0.1**2, 0.1**2, 0], [1, 0, 0]]).double()
    torch.testing.assert_close(counts, expected)
    assert overshot.tolist() == [True, True, True]
    counts, overshot = oscillation(signed[:1], strong[:1], 0.2, torch.tensor([True, False, False]), ~learned)
    assert counts.tolist() == [[0, 0, 1], [0, 0, 64], [0, 0, 1]]
    counts, overshot = oscillation(signed[:1], strong[:1], 0.2, torch.tensor([True, False, False]), learned)
    torch.testing.assert_close(counts[:, 0], torch.tensor([1, 0.8**2, 1]).double())
    assert overshot.tolist() == [True, False, True]
    diverged = torch.full((2, 1), torch.nan).double()
    counts, _ = oscillation(diverged, torch.ones(2, 1).double(), 0.2, nothing[:1], nothing[:1])
    assert not counts.any()  # NaN is not an overshoot


def test_inner_products_are_the_greatest_over_filters_and_points() -> None:
    table = FeatureNoise(4, 1, 3, 1, dim=7, replicas=2, seed=0)
    rows = table.training().columns
    weight = torch.randn(2, 2, 3, 7, generator=torch.Generator().manual_seed(0)).double()
    found = inner_products(weight, points_of(rows["features"], rows["target"], table.signals))
    u, v = table.signals
    for s in range(2):
        noise = [float(w @ x) for w in weight[s].flatten(0, 1) for x in rows["features"][:, s, 2]]
        greatest = [max(float(w @ u) for w in weight[s, 0]), max(float(w @ v) for w in weight[s, 0])]
        negative = max(-float(w @ v) for w in weight[s, 1])
        torch.testing.assert_close(found[:, s], torch.tensor([*greatest, negative, max(noise)]).double())


def test_answers_are_counted_of_weak_points_strong_points_and_all() -> None:
    f = torch.tensor([[0.5, -1.0], [-2.0, 3.0], [1.0, 1.0]]).double()
    counts = right_answers(f, torch.tensor([[1.0], [-1.0], [-1.0]]).double(), torch.tensor([False, True, True]))
    assert counts.tolist() == [[1, 1, 0], [2, 1, 0], [3, 2, 0]]
