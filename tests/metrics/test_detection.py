import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from lightning_modules.metrics.detection import detection_metrics, true_negative_rate


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([1.0, 1e-3, 1e6]))
def test_metrics_are_scikit_learns_whatever_the_scale_and_order(seed: int, scale: float) -> None:
    random = torch.Generator().manual_seed(seed)
    in_distribution = scale * torch.randn(50, generator=random, dtype=torch.float64)
    other = scale * (torch.randn(30, generator=random, dtype=torch.float64) - 1)
    found = detection_metrics(in_distribution, other)
    target, both = np.array([1] * 50 + [0] * 30), torch.cat([in_distribution, other]).numpy()
    assert found["auroc"] == pytest.approx(roc_auc_score(target, both), abs=1e-6)
    assert found["aupr_in"] == pytest.approx(average_precision_score(target, both), abs=1e-6)
    assert found["aupr_out"] == pytest.approx(average_precision_score(1 - target, -both), abs=1e-6)
    best = max(0.5 * float((in_distribution >= t).double().mean() + (other < t).double().mean()) for t in both)
    assert found["detection_accuracy"] == pytest.approx(max(best, 0.5), abs=1e-6)
    shuffled = in_distribution[torch.randperm(50, generator=random)], other[torch.randperm(30, generator=random)]
    assert detection_metrics(*shuffled) == found


def counted(in_distribution: list[float], other: list[float]) -> float:
    """Compute the published TNR: remove inputs by increasing score; at equal scores, in-distribution inputs first."""
    left_in, left_out = sorted(in_distribution), sorted(other)
    best = (abs(1 - 0.95), 0.0)
    while left_in or left_out:
        if left_in and (not left_out or left_in[0] <= left_out[0]):
            left_in.pop(0)
        else:
            left_out.pop(0)
        tpr, tnr = len(left_in) / len(in_distribution), 1 - len(left_out) / len(other)
        if abs(tpr - 0.95) < best[0] - 1e-12:
            best = (abs(tpr - 0.95), tnr)
    return best[1]


@settings(deadline=None, max_examples=50)
@given(
    in_distribution=st.lists(st.integers(0, 20), min_size=1, max_size=60),
    other=st.lists(st.integers(-5, 15), min_size=1, max_size=30),
)
@example(in_distribution=[*range(10)], other=[-5])  # 100 % and 90 % are equally close
def test_true_negative_rate_is_that_of_the_published_procedure(in_distribution: list[int], other: list[int]) -> None:
    found = true_negative_rate(torch.tensor(in_distribution).double(), torch.tensor(other).double())
    assert float(found) == pytest.approx(counted([*map(float, in_distribution)], [*map(float, other)]))


def test_metrics_of_an_example_by_hand() -> None:
    in_distribution = torch.arange(1.0, 21)  # 95 % of 20 are above the lowest
    found = detection_metrics(in_distribution, torch.tensor([0.0, 0.5, 1.5, 30]))
    assert found["tnr95"] == pytest.approx(0.5)  # 0 and 0.5 are below 1, the rejected in-distribution score
    assert found["auroc"] == pytest.approx((20 + 20 + 19 + 0) / 80)
    assert found["detection_accuracy"] == pytest.approx(0.5 * (19 / 20 + 3 / 4))
    with pytest.raises(ValueError, match="other inputs is empty"):
        detection_metrics(in_distribution, in_distribution[:0])
    with pytest.raises(ValueError, match="in-distribution inputs is NaN"):
        detection_metrics(in_distribution * float("nan"), in_distribution)
