import torch

from datamodules.tables.bundled import BreastCancer
from datamodules.tables.trusted_rows import TrustedRows


def cancer() -> BreastCancer:
    return BreastCancer(validation_fraction=0.0, test_fraction=0.01)


def test_labels_are_false_where_it_says_and_trusted_ones_are_true() -> None:
    table = TrustedRows(cancer(), 300, 100, flipped=0.3, seed=1)
    training, test = table.training().columns, table.test().columns
    assert training["trusted"].tolist() == [False] * 300 + [True] * 100
    assert training["corrupted"].sum() == 90
    assert not (training["corrupted"] & training["trusted"]).any()
    assert torch.equal(training["target"] != training["clean_target"], training["corrupted"])
    assert len(test["target"]) == 563 - 400
    everything = torch.cat([training["features"], test["features"]])
    assert len(everything.unique(dim=0)) == 563  # each row of the table once
    again, other = (TrustedRows(cancer(), 300, 100, 0.3, seed=seed).training().columns for seed in (1, 2))
    assert torch.equal(again["corrupted"], training["corrupted"])
    assert not torch.equal(other["corrupted"], training["corrupted"])


def test_positives_are_removed_from_what_trains_alone() -> None:
    whole = TrustedRows(cancer(), 300, 100, seed=1).training().columns
    part = TrustedRows(cancer(), 300, 100, flipped=0.1, kept_positives=0.3, seed=1).training().columns
    positives = int((whole["clean_target"][:300] == 1).sum())
    left = ~part["trusted"]
    assert int((part["clean_target"][left] == 1).sum()) == positives - int(0.7 * positives)
    assert int((part["clean_target"][left] == -1).sum()) == 300 - positives
    assert int(part["corrupted"].sum()) == int(0.1 * int(left.sum()))
    assert torch.equal(part["features"][~left], whole["features"][300:])
