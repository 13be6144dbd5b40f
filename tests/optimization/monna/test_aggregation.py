"""Aggregation rules equal their definitions, written as loops; the robustness of nearest-neighbor averaging."""

import statistics
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_modules.optimization.monna import aggregation
from lightning_modules.optimization.monna.aggregation import (
    Average,
    CoordinatewiseMedian,
    GeometricMedian,
    Krum,
    MeanAroundMedian,
    NearestNeighborAveraging,
    Rule,
    SelfCenteredClipping,
    TrimmedMean,
    all_heard,
)
from lightning_modules.optimization.monna.exchange import responders
from tests.numbers import numbers

NNA = NearestNeighborAveraging()
MEDIANS: list[Rule] = [CoordinatewiseMedian(), MeanAroundMedian()]
RULES: list[Rule] = [NNA, Average(), TrimmedMean(), GeometricMedian(), SelfCenteredClipping(2.0), Krum(), *MEDIANS]


def drawn(honest: int, byzantine: int, seed: int = 0) -> Tensor:
    places = responders(honest, honest - byzantine - 1, torch.Generator().manual_seed(seed))
    return torch.nn.functional.pad(places, (0, byzantine), value=honest)


# each rule for one node, given the list of received vectors


def nearest_by_loop(own: Tensor, heard: list[Tensor], f: int) -> Tensor:
    ordered = sorted(heard, key=lambda vector: float((vector - own).norm()))
    return torch.stack(ordered[: len(heard) - f]).mean(dim=0)


def trimmed_by_loop(own: Tensor, heard: list[Tensor], f: int) -> Tensor:
    columns = torch.stack(heard).T
    return torch.stack([column.sort().values[f : len(heard) - f].mean() for column in columns])


def median_by_loop(own: Tensor, heard: list[Tensor], f: int) -> Tensor:
    z = torch.zeros_like(own)
    for _ in range(3):
        weights = [1 / max(float((z - x).norm()), 0.1) for x in heard]
        z = sum((b * x for b, x in zip(weights, heard, strict=True)), torch.zeros_like(own)) / sum(weights)
    return z


def clipped_by_loop(own: Tensor, heard: list[Tensor], f: int) -> Tensor:
    v = own
    for _ in range(3):
        moves = [(x - v) * min(1.0, 2.0 / max(float((x - v).norm()), 1e-300)) for x in heard]
        v = v + torch.stack(moves).mean(dim=0)
    return v


def krum_by_loop(own: Tensor, heard: list[Tensor], f: int) -> Tensor:
    def score(i: int) -> float:
        others = sorted(float((heard[i] - x).square().sum()) for j, x in enumerate(heard) if j != i)
        return sum(others[: len(heard) - f - 2])

    return heard[min(range(len(heard)), key=score)]


def middle_by_loop(own: Tensor, heard: list[Tensor], f: int) -> Tensor:
    return torch.tensor([statistics.median(column) for column in torch.stack(heard).T.tolist()], dtype=own.dtype)


def around_middle_by_loop(own: Tensor, heard: list[Tensor], f: int) -> Tensor:
    kept = []
    for column in torch.stack(heard).T.tolist():
        middle = statistics.median(column)
        kept.append(sorted(column, key=lambda value: abs(value - middle))[: len(heard) - f])
    return torch.tensor(kept, dtype=own.dtype).mean(dim=1)


LOOPS: dict[type[Rule], Callable[[Tensor, list[Tensor], int], Tensor]] = {
    NearestNeighborAveraging: nearest_by_loop,
    Average: lambda own, heard, f: torch.stack(heard).mean(dim=0),
    TrimmedMean: trimmed_by_loop,
    GeometricMedian: median_by_loop,
    SelfCenteredClipping: clipped_by_loop,
    Krum: krum_by_loop,
    CoordinatewiseMedian: middle_by_loop,
    MeanAroundMedian: around_middle_by_loop,
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("at_once", [20, aggregation.AT_ONCE])
def test_a_rule_is_its_definition_for_each_node(rule: Rule, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregation, "AT_ONCE", at_once)
    vectors, heard = torch.cat([numbers(8, 5), 3 + numbers(1, 5, seed=1)]), drawn(8, 2)
    ours = rule(vectors[3:6], vectors, heard[3:6], 2)  # aggregate for three nodes only
    loop = LOOPS[type(rule)]
    expected = [loop(vectors[i], list(vectors[heard[i]]), 2) for i in range(3, 6)]
    torch.testing.assert_close(ours, torch.stack(expected), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_what_an_attack_is_told_is_the_mean_over_nodes_that_hear_all(rule: Rule) -> None:
    honest, sent, loop = numbers(7, 4), 2 * numbers(4, seed=2), LOOPS[type(rule)]
    everything = [*honest, sent, sent]
    expected = torch.stack([loop(own, everything, 2) for own in honest]).mean(dim=0)
    torch.testing.assert_close(rule.answer(honest, 2)(sent), expected, rtol=1e-12, atol=1e-12)


def test_krum_takes_one_vector_and_medians_the_middle_by_hand() -> None:
    vectors = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0]], dtype=torch.float64)
    all_of_them = torch.arange(5)[None]
    assert Krum()(vectors[:1], vectors, all_of_them, 1).item() == 1.0  # scores 5, 2, 5, 65, 82
    assert CoordinatewiseMedian()(vectors[:1], vectors, all_of_them, 1).item() == 2.0
    assert MeanAroundMedian()(vectors[:1], vectors, all_of_them, 2).item() == 1.0  # mean of 0, 1 and 2
    assert CoordinatewiseMedian()(vectors[:1], vectors, all_of_them[:, :4], 1).item() == 1.5


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_equal_vectors_stay_what_they_are(rule: Rule) -> None:
    vectors = numbers(1, 4).expand(6, -1)
    torch.testing.assert_close(rule(vectors, vectors, drawn(6, 0), 0), vectors, rtol=1e-14, atol=0)


def test_without_byzantine_nodes_it_is_the_plain_mean() -> None:
    vectors = numbers(6, 4)
    mean = vectors.mean(dim=0).expand(6, -1)
    for rule in (NNA, Average(), TrimmedMean(), MeanAroundMedian()):
        torch.testing.assert_close(rule(vectors, vectors, drawn(6, 0), 0), mean, rtol=1e-14, atol=1e-15)


def test_the_smallest_case_by_hand() -> None:
    vectors = torch.tensor([[0.0], [1.0], [10.0]], dtype=torch.float64)  # n = 4, f = 1: own, peer, Byzantine
    assert NNA(vectors[:1], vectors, torch.tensor([[0, 1, 2]]), 1).item() == 0.5


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3), st.floats(0.01, 100.0))
def test_it_lies_among_its_inputs_and_moves_and_scales_with_them(seed: int, f: int, scale: float) -> None:
    honest, shift = 3 * f + 2, 10 * numbers(3, seed=seed + 1)
    vectors, heard = (
        torch.cat([numbers(honest, 3, seed=seed), 2 * numbers(1, 3, seed=seed + 2)]),
        drawn(honest, f, seed),
    )
    own = vectors[:honest]
    made = NNA(own, vectors, heard, f)
    for i in range(honest):  # a mean of len(heard) - f of the received vectors
        inputs = vectors[heard[i]]
        assert (made[i] <= inputs.amax(dim=0) + 1e-12).all()
        assert (made[i] >= inputs.amin(dim=0) - 1e-12).all()
    moved = NNA(scale * own + shift, scale * vectors + shift, heard, f)
    torch.testing.assert_close(moved, scale * made + shift, rtol=1e-12, atol=1e-12 * (1 + scale))


@pytest.mark.parametrize("far", [1e3, 1e100, torch.inf, torch.nan])
def test_vectors_that_are_farther_than_all_honest_ones_change_no_bit(far: float) -> None:
    honest = numbers(9, 4)
    made = [
        NNA(honest, torch.cat([honest, torch.full((1, 4), value, dtype=torch.float64)]), drawn(9, 2), 2)
        for value in (50.0, far)
    ]
    assert made[0].equal(made[1])
    assert made[0].isfinite().all()


@pytest.mark.parametrize("rule", [GeometricMedian(), SelfCenteredClipping(2.0), TrimmedMean(), Krum(), *MEDIANS])
def test_baselines_bear_what_is_not_finite(rule: Rule) -> None:
    honest = numbers(9, 4)
    for wrong in (torch.inf, torch.nan):
        vectors = torch.cat([honest, torch.full((1, 4), wrong, dtype=torch.float64)])
        assert rule(honest, vectors, drawn(9, 2), 2).isfinite().all()


def test_models_far_from_zero_are_told_apart_in_single_precision() -> None:
    """Distances are computed from differences; |x|^2 + |y|^2 - 2 <x, y> would have errors larger than the distances."""
    honest = (1000 + 1e-2 * numbers(8, 4000)).float()
    expected = torch.cdist(honest.double(), honest.double())
    torch.testing.assert_close(aggregation.vector_distances(honest, honest).double(), expected, rtol=1e-5, atol=1e-5)


def variation(vectors: Tensor) -> Tensor:
    return ((vectors - vectors.mean(dim=0)) ** 2).sum(dim=1).mean()


@pytest.mark.parametrize("seed", range(40))
def test_it_reduces_variation_and_moves_the_mean_little(seed: int) -> None:
    """(alpha, lambda)-reduction at n = 26, f = 2: 9.88 f / (n - f) = 0.82 and 9 f / (n - f) = 0.75."""
    random = torch.Generator().manual_seed(seed)
    spread = torch.rand(24, 1, generator=random, dtype=torch.float64) ** 3
    honest = spread * numbers(24, 3, seed=seed)
    direction = torch.nn.functional.normalize(numbers(3, seed=seed + 1), dim=0)
    for distance in torch.linspace(0, 3, 13, dtype=torch.float64):
        sent = honest.mean(dim=0) + distance * variation(honest).sqrt() * direction
        made = NNA(honest, torch.cat([honest, sent[None]]), drawn(24, 2, seed), 2)
        assert variation(made) <= 0.82 * variation(honest)
        assert ((made.mean(dim=0) - honest.mean(dim=0)) ** 2).sum() <= 0.75 * variation(honest)


def test_the_vector_of_all_byzantine_nodes_is_heard_from_each() -> None:
    assert all_heard(3, 2, torch.device("cpu")).tolist() == [[0, 1, 2, 3, 3]]


def test_most_byzantine_nodes() -> None:
    tolerated: dict[Any, list[int]] = {rule: [rule.most_byzantine(n) for n in (3, 4, 16, 26)] for rule in RULES}
    assert tolerated.pop(RULES[1]) == [1, 1, 7, 12]  # plain averaging, which needs one vector
    assert tolerated.pop(RULES[5]) == [0, 0, 4, 7]  # Krum, whose score needs a neighbour: n - f >= 2 f + 3
    assert set(map(tuple, tolerated.values())) == {(0, 1, 5, 8)}
