import math

import pytest
import torch

from datamodules.corruptions.value_noise import BoundaryFlips, ConstantFlips, HalfFlips
from datamodules.tables.halfspaces import LAWS, Halfspaces


@pytest.mark.parametrize("marginal", LAWS)
def test_every_law_has_the_identity_as_covariance(marginal: str) -> None:
    rows = Halfspaces(ConstantFlips(0.0), 3, 400_000, marginal, seed=1).training()  # type: ignore[arg-type]
    features = rows.columns["features"]
    scale = 5 if marginal == "heavy" else 1  # no fourth moment, so convergence is slow
    torch.testing.assert_close(features.T @ features / len(features), torch.eye(3).double(), rtol=0, atol=0.02 * scale)
    assert features.mean(0).abs().max() < 0.02
    assert torch.equal(rows.columns["target"], rows.columns["clean_target"])


@pytest.mark.parametrize(("flips", "least_error"), [
    (ConstantFlips(0.3), 0.3),
    (HalfFlips(0.3), 0.15),
    (BoundaryFlips(0.3), 0.3 * math.exp(0.5) * math.erfc(math.sqrt(0.5))),
])  # fmt: skip
def test_labels_are_flipped_as_often_as_stated(flips: ConstantFlips, least_error: float) -> None:
    rows = Halfspaces(flips, 4, test_samples=400_000, seed=0).test().columns
    assert (rows["target"] != rows["clean_target"]).double().mean().item() == pytest.approx(least_error, abs=3e-3)


@pytest.mark.parametrize("angle", [0.1, 1.0, 2.5])
def test_two_halfspaces_differ_on_the_angle_over_pi_of_normal_points(angle: float) -> None:
    rows = Halfspaces(ConstantFlips(), 3, test_samples=1_000_000, seed=2).test()
    w_true, x = rows.truth["w_true"], rows.columns["features"]
    across = torch.linalg.qr(w_true[:, None], mode="complete").Q[:, 1]
    other = math.cos(angle) * w_true + math.sin(angle) * across
    differ = (x @ other).sign() != rows.columns["clean_target"]
    assert differ.double().mean().item() == pytest.approx(angle / math.pi, abs=2e-3)


def test_nothing_lies_in_the_gap_and_splits_share_the_truth_alone() -> None:
    table = Halfspaces(ConstantFlips(), 3, 1001, "gap", test_samples=100, seed=4)
    parts = [table.training(), table.validation(), table.test()]
    assert [len(part) for part in parts] == [500, 501, 100]
    assert all(torch.equal(part.truth["w_true"], torch.tensor([0.0, 1.0, 0.0]).double()) for part in parts)
    assert all(part.columns["features"][:, 0].abs().min() > 0.29 for part in parts)
    assert not torch.isin(parts[0].columns["features"], parts[1].columns["features"]).any()
    random = Halfspaces(ConstantFlips(), 3, seed=4).training().truth["w_true"]
    assert random.norm().item() == pytest.approx(1)
