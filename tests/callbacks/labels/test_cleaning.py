from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import seed_everything

import train
from callbacks.labels.cleaning import cleaned_labels, with_actions, wrong_fraction
from callbacks.labels.measures import compare_with_labels
from callbacks.labels.report import LabelReport, in_words
from datamodules.classification.digits import Digits
from datamodules.classification.labelled_images import LabelledImages
from datamodules.classification.selection.split import Split
from datamodules.corruptions.label_noise import FromCSV, Symmetric
from datamodules.loading import Loading
from lightning_modules.baselines.cross_entropy import CrossEntropy
from lightning_modules.networks.mlp import MLP
from tests.trainers import quiet

BY_HAND = [
    # given label, probabilities, expected action, label and confidence; class thresholds (0.475, 0.667, 0.55, 0.35)
    (0, [0.90, 0.05, 0.05, 0.0], "keep", 0, 0.9),
    (0, [0.70, 0.20, 0.10, 0.0], "keep", 0, 0.7),
    (0, [0.20, 0.70, 0.10, 0.0], "relabel", 1, 0.7),
    (0, [0.10, 0.30, 0.60, 0.0], "relabel", 2, 0.6),
    (1, [0.10, 0.80, 0.10, 0.0], "keep", 1, 0.8),
    (1, [0.05, 0.90, 0.05, 0.0], "keep", 1, 0.9),
    (1, [0.60, 0.30, 0.10, 0.0], "relabel", 0, 0.6),
    (2, [0.10, 0.10, 0.80, 0.0], "keep", 2, 0.8),
    (2, [0.30, 0.40, 0.30, 0.0], "drop", 2, 0.7),  # suspected, but 0.4 is too low for class 1
    (3, [0.50, 0.10, 0.00, 0.4], "keep", 3, 0.4),  # not the most probable class, but high for class 3
    (3, [0.60, 0.10, 0.00, 0.3], "relabel", 0, 0.6),
]


def report(given: torch.Tensor, probability: torch.Tensor) -> pd.DataFrame:
    table = pd.DataFrame(
        {name: column.numpy() for name, column in compare_with_labels(probability.double(), given).items()}
    )
    return table.assign(index=range(len(table)), suspected=(table["score"] < 0.5).astype(int))


def test_actions_and_the_wrong_fraction_are_those_computed_by_hand() -> None:
    table = report(torch.tensor([row[0] for row in BY_HAND]), torch.tensor([row[1] for row in BY_HAND]))
    decided = with_actions(table)
    assert decided["action"].tolist() == [row[2] for row in BY_HAND]
    assert decided["label"].tolist() == [row[3] for row in BY_HAND]
    assert decided["confidence"].tolist() == pytest.approx([row[4] for row in BY_HAND])
    # Labels that point to a different class: two of four in class 0, one of three in class 1, none in class 2 (one
    # label is not counted), and both in class 3.
    assert wrong_fraction(table)["labels_wrong_estimate"] == pytest.approx((4 * 2 / 4 + 3 * 1 / 3 + 0 + 2) / 11)
    assert with_actions(table.assign(suspected=0))["action"].eq("keep").all()
    estimate = {"labels_wrong_estimate": 0.4, "labels_wrong_low": 0.3}
    for high, warned in ((0.4, True), (0.5, False)):  # 5 of 11 labels change
        told = in_words(table, {**estimate, "labels_wrong_high": high}, Path("cleaned_labels.csv"))
        assert "relabels or drops 45.5%" in told
        assert ("more than the estimated wrong labels" in told) == warned


def test_a_class_that_is_never_given_gets_no_image_and_equal_probabilities_are_confident() -> None:
    table = report(torch.tensor([0, 0, 1, 1, 1]), torch.tensor([[0.9, 0.1, 0], [0.1, 0, 0.9], *[[0.9, 0.1, 0]] * 3]))
    assert with_actions(table)["action"].tolist() == ["keep", "drop", "keep", "keep", "keep"]


def test_without_a_wrong_label_the_interval_is_that_of_none_in_so_many() -> None:
    """By Clopper and Pearson: if 3.6 % of the labels are wrong, 100 samples are all right with probability 0.025."""
    table = report(torch.zeros(100, dtype=torch.int64), torch.tensor([[0.9, 0.1]]).expand(100, 2))
    assert list(wrong_fraction(table).values()) == pytest.approx([0, 0, 0.03621], abs=1e-5)


def noisy_predictions(images: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sample given and true labels of five classes, 30 % of them wrong, and noisy probabilities for the true labels."""
    random = torch.Generator().manual_seed(seed)
    true = torch.randint(5, (images,), generator=random)
    shift = torch.randint(1, 5, (images,), generator=random) * (torch.rand(images, generator=random) < 0.3)
    logits = torch.randn(images, 5, generator=random, dtype=torch.float64)
    logits[torch.arange(images), true] += 3
    return (true + shift) % 5, true, logits.softmax(dim=1)


def test_the_interval_is_that_of_resampled_images() -> None:
    given, _, probability = noisy_predictions(1500, 0)
    p, y = probability.numpy(), given.numpy()
    threshold = np.array([p[y == k, k].mean() for k in range(5)])

    def fraction(row: np.ndarray) -> float:
        total = 0.0
        for category in range(5):
            mine = row[y[row] == category]
            best = p[mine].argmax(axis=1)
            other = (best != category) & (p[mine, best] >= threshold[best])
            own = (p[mine, category] >= threshold[category]) & ~other
            total += len(mine) * other.sum() / (other.sum() + own.sum())
        return total / len(row)

    estimated = wrong_fraction(report(given, probability))
    assert estimated["labels_wrong_estimate"] == pytest.approx(fraction(np.arange(1500)))
    random = np.random.default_rng(1)
    resampled = [fraction(random.integers(1500, size=1500)) for _ in range(400)]
    interval = [estimated["labels_wrong_low"], estimated["labels_wrong_high"]]
    assert interval == pytest.approx(np.quantile(resampled, [0.025, 0.975]).tolist(), abs=0.006)
    assert interval[1] - interval[0] > 0.03


def test_the_interval_covers_the_fraction_of_wrong_labels_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(40):
        given, _, probability = noisy_predictions(800, seed)
        estimated = wrong_fraction(report(given, probability), resamples=200)
        covered += estimated["labels_wrong_low"] <= 0.3 <= estimated["labels_wrong_high"]
    assert covered >= 34


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_fit_on_the_cleaned_list_trains_on_better_labels(seed: int, tmp_path: Path) -> None:
    """Train on digits with 40 % symmetric noise; the test images are unchanged."""

    def run(data: LabelledImages, directory: Path) -> dict[str, float]:
        seed_everything(seed)
        module = CrossEntropy(
            MLP(64, [128], 10), 10, optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.003)
        )
        trainer = quiet(max_epochs=6, default_root_dir=directory, callbacks=[LabelReport(num_images=1)])
        trainer.fit(module, data)
        return dict(trainer.test(module, datamodule=data, verbose=False)[0])

    noisy = LabelledImages(
        Digits(), 64, Symmetric(0.4), split=Split(validation_fraction=0.1), loading=Loading(seed=seed)
    )
    before = run(noisy, tmp_path)
    path = tmp_path / "cleaned_labels.csv"
    noise = FromCSV(str(path), partial=True, classes="number")
    cleaned = LabelledImages(Digits(), 64, noise, split=Split(validation_fraction=0.1), loading=Loading(seed=seed))
    after = run(cleaned, tmp_path / "cleaned")

    table, first, second = pd.read_csv(path), noisy.train_set, cleaned.train_set
    assert first is not None
    assert second is not None
    left = table[table["action"] != "drop"]
    assert len(left) < len(table) == len(first)
    assert second.row.tolist() == left["index"].tolist()
    assert second.given.tolist() == left["label"].tolist()
    truth = Digits().training().label
    assert torch.equal(second.clean_label, truth[second.row])  # type: ignore[arg-type]
    wrong, still = first.given != truth[first.row], second.given != truth[second.row]
    assert float(still.double().mean()) < float(wrong.double().mean()) / 2
    assert noisy.test_set is not None
    assert cleaned.test_set is not None
    assert torch.equal(cleaned.test_set.label, noisy.test_set.label)
    assert before["test/labels_wrong_low"] < float(wrong.double().mean()) < before["test/labels_wrong_high"]
    assert after["test/labels_wrong_high"] < before["test/labels_wrong_low"]


def test_the_folds_of_a_set_are_one_cleaned_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given, true, probability = noisy_predictions(60, 3)
    whole = report(given, probability).rename(columns={"index": "row"})
    whole = whole.assign(in_sample=0, clean_label=[None, *true.tolist()[1:]])
    whole["clean_label"] = whole["clean_label"].astype("Int64")
    for fold in range(3):
        part = whole.iloc[fold::3].assign(index=range(20)).sort_values("score")
        (tmp_path / f"fold={fold}").mkdir()
        part.to_csv(tmp_path / f"fold={fold}" / "label_report.csv", index=False)
    assert train.main(["label_report", str(tmp_path)]) == 0
    expected = cleaned_labels(whole)
    written = pd.read_csv(tmp_path / "cleaned_labels.csv", dtype={"clean_label": "Int64"})
    pd.testing.assert_frame_equal(written, expected, check_dtype=False)
    assert f"labels_wrong_estimate {wrong_fraction(whole)['labels_wrong_estimate']:.4f}" in capsys.readouterr().out
    for name, column in (("label_report.csv", "proposed"), ("cleaned_labels.csv", "label")):  # integers, not 1.0
        key = "row" if column == "proposed" else None
        _, truth = FromCSV(str(tmp_path / name), column, key).labels_and_truth(true, 5)
        assert truth is not None
        assert truth.tolist() == [-2, *true.tolist()[1:]]
