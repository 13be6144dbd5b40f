from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import LightningModule
from matplotlib.colors import to_rgba
from torch import Tensor
from torch.nn import functional as F

from callbacks.labels import report as label_report
from callbacks.labels.cleaning import cleaned_labels, wrong_fraction
from callbacks.labels.measures import find_label_issues, label_score, precision_and_recall
from callbacks.labels.report import LabelReport
from callbacks.labels.report_figure import ARROW, UNKNOWN, WRONG, draw_worst_labels
from datamodules.classification.digits import Digits
from datamodules.classification.image_sets import ImagesInMemory
from datamodules.classification.labelled_images import LabelledImages
from datamodules.classification.selection.split import Split
from datamodules.corruptions.label_noise import Symmetric
from datamodules.loading import Loading
from lightning_modules.tasks.classifier import ClassifierSteps, accuracies
from tests.trainers import quiet


def test_score_is_the_closed_form_of_two_classes() -> None:
    """With p = (a, 1 - a), the margin of class 0 is 2a - 1, so the score of label 0 is a itself."""
    a = torch.tensor([0.0, 0.1, 0.5, 1.0], dtype=torch.float64)
    probability = torch.stack([a, 1 - a], dim=1)
    torch.testing.assert_close(label_score(probability, torch.zeros(4, dtype=torch.int64)), a)
    torch.testing.assert_close(label_score(probability, torch.ones(4, dtype=torch.int64)), 1 - a)


def test_score_compares_with_the_most_probable_other_class() -> None:
    probability = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64)
    scores = [float(label_score(probability, torch.tensor([label]))) for label in range(3)]
    assert scores == pytest.approx([(0.2 - 0.5 + 1) / 2, (0.5 - 0.3 + 1) / 2, (0.3 - 0.5 + 1) / 2])


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**31), num_classes=st.integers(2, 7), scale=st.sampled_from([0.1, 1.0, 30.0]))
def test_score_below_a_half_is_another_prediction(seed: int, num_classes: int, scale: float) -> None:
    random = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(20, num_classes, generator=random, dtype=torch.float64)
    label = torch.randint(num_classes, (20,), generator=random)
    score = label_score(logits.softmax(dim=1), label)
    assert ((score >= 0) & (score <= 1)).all()
    assert torch.equal(score < 0.5, logits.argmax(dim=1) != label)


def test_precision_and_recall_count_what_they_say() -> None:
    suspected = np.array([1, 1, 1, 0, 0, 0], dtype=bool)
    wrong = np.array([1, 1, 0, 1, 1, 0], dtype=bool)
    assert precision_and_recall(suspected, wrong) == (2 / 3, 1 / 2)
    assert precision_and_recall(np.zeros(6, dtype=bool), wrong) == (0.0, 0.0)


ESTIMATES = ("labels_wrong_estimate", "labels_wrong_low", "labels_wrong_high")


class NearestMean(ClassifierSteps, LightningModule):
    """Classifies by the nearest class mean of the images, computed with their true labels."""

    num_classes = 10
    mean: Tensor

    def __init__(self, data: LabelledImages) -> None:
        super().__init__()
        source = data.images.training()
        image = source.image.flatten(1) / source.data_range
        self.register_buffer("mean", torch.stack([image[source.label == k].mean(dim=0) for k in range(10)]))
        self.metrics = accuracies(10)

    def forward(self, image: Tensor) -> Tensor:
        return -4 * torch.cdist(image.flatten(1), self.mean.to(image.dtype)).square()


def noisy_digits() -> LabelledImages:
    return LabelledImages(
        Digits(),
        batch_size=101,
        label_noise=Symmetric(0.4),
        split=Split(validation_fraction=0.1),
        loading=Loading(seed=3),
    )


def report(directory: Path, callback: LabelReport, data: LabelledImages) -> dict[str, float]:
    trainer = quiet(default_root_dir=directory, callbacks=[callback])
    (metrics,) = trainer.test(NearestMean(data), datamodule=data, verbose=False)
    return {name.removeprefix("test/"): value for name, value in metrics.items()}


@pytest.mark.parametrize("threshold", [0.5, 0.05])
def test_report_is_what_the_module_says_of_each_training_image(tmp_path: Path, threshold: float) -> None:
    data = noisy_digits()
    metrics = report(tmp_path, LabelReport(threshold), data)
    table = pd.read_csv(tmp_path / "label_report.csv")
    assert list(table) == [
        *("index", "row", "given", "proposed", "probability_given", "probability_proposed"),
        *("score", "suspected", "in_sample", "clean_label"),
    ]
    assert table["in_sample"].eq(1).all()
    assert sorted(table["index"]) == list(range(data.num_train_samples))
    assert table["score"].is_monotonic_increasing
    train = data.train_set
    assert train is not None
    source = train.source
    assert isinstance(source, ImagesInMemory)
    index = torch.tensor(table["index"])
    assert table["row"].tolist() == train.row[index].tolist()
    assert table["given"].tolist() == train.label[index].tolist()
    assert table["clean_label"].tolist() == source.label[train.row[index]].tolist()
    image = source.image[train.row[index]].double() / 16
    probability = NearestMean(data)(image).softmax(dim=1)
    given = torch.tensor(table["given"])
    assert table["proposed"].tolist() == probability.argmax(dim=1).tolist()
    for column, expected in (
        ("probability_given", probability.gather(1, given[:, None])[:, 0]),
        ("probability_proposed", probability.amax(dim=1)),
        ("score", label_score(probability, given)),
    ):
        np.testing.assert_allclose(table[column], expected, rtol=0, atol=1e-5, err_msg=column)
    suspected, wrong = table["suspected"] == 1, table["given"] != table["clean_label"]
    assert suspected.tolist() == (table["score"] < threshold).tolist()
    if threshold == 0.5:
        assert suspected.tolist() == (table["given"] != table["proposed"]).tolist()
    assert metrics["labels_suspected"] == pytest.approx(suspected.mean())
    assert metrics["label_precision"] == pytest.approx((suspected & wrong).sum() / suspected.sum())
    assert metrics["label_recall"] == pytest.approx((suspected & wrong).sum() / wrong.sum())
    cleaned = pd.read_csv(tmp_path / "cleaned_labels.csv")
    assert list(cleaned) == ["index", "label", "action", "confidence", "given", "clean_label"]
    pd.testing.assert_frame_equal(cleaned, cleaned_labels(table))
    assert {name: metrics[name] for name in ESTIMATES} == pytest.approx(wrong_fraction(table), abs=1e-6)
    assert metrics["labels_wrong_low"] < metrics["labels_wrong_estimate"] < metrics["labels_wrong_high"]
    right_scores = table.loc[~wrong, "score"].to_numpy()
    pairs = [(right_scores > score).mean() + (right_scores == score).mean() / 2 for score in table.loc[wrong, "score"]]
    assert metrics["label_auroc"] == pytest.approx(np.mean(pairs), abs=1e-6)
    assert min(metrics[f"label_{name}"] for name in ("precision", "auroc")) > 0.7
    assert (tmp_path / "figures" / "label_report.png").stat().st_size > 10_000
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == [
        *("cleaned_labels.csv", "cleaned_labels.yaml", "label_report.csv", "label_report.png")
    ]


def test_of_folds_the_images_that_were_held_out_are_judged(tmp_path: Path) -> None:
    tables = []
    for fold in range(3):
        data = LabelledImages(Digits(), 101, Symmetric(0.4), split=Split(folds=3, fold=fold), loading=Loading(seed=3))
        metrics = report(tmp_path / str(fold), LabelReport(probabilities=True), data)
        table = pd.read_csv(tmp_path / str(fold) / "label_report.csv")
        probability = np.load(tmp_path / str(fold) / "label_probabilities.npy")[table["index"]]
        assert probability.argmax(axis=1).tolist() == table["proposed"].tolist()
        np.testing.assert_allclose(probability.max(axis=1), table["probability_proposed"], rtol=0, atol=1e-6)
        data.setup("fit")
        assert data.train_set is not None
        assert not set(table["row"]) & set(data.train_set.row.tolist())
        assert metrics["labels_suspected"] == pytest.approx(table["suspected"].mean())
        tables.append(table)
    together = pd.concat(tables)
    assert together["in_sample"].eq(0).all()
    assert sorted(together["row"]) == list(range(len(Digits().training().label)))


def test_without_true_labels_there_is_no_precision_and_names_are_written(tmp_path: Path) -> None:
    data = LabelledImages(Digits(), batch_size=101)
    data.images.class_names = [f"digit {k}" for k in range(10)]
    metrics = report(tmp_path, LabelReport(num_images=3), data)
    assert set(metrics) == {"accuracy", "cross_entropy", "labels_suspected", *ESTIMATES}
    table = pd.read_csv(tmp_path / "label_report.csv")
    assert "clean_label" not in table
    assert table["given_name"].tolist() == [f"digit {k}" for k in table["given"]]
    assert table["proposed_name"].tolist() == [f"digit {k}" for k in table["proposed"]]


def test_an_image_of_no_class_is_not_captioned_with_the_last_class() -> None:
    names = ["tea", "coffee"]
    worst = pd.DataFrame({"given": [0, 0, 0], "proposed": [1, 0, 1], "clean_label": [-1, 1, label_report.UNVERIFIED]})
    for class_names, wrong, right in ((names, "tea", "coffee"), (None, "0", "1")):
        figure = draw_worst_labels(np.zeros((3, 1, 4, 4), dtype=np.float32), worst, 3, 1, class_names)
        captions = [panel.texts[0].get_text() for panel in figure.axes]
        assert captions[0].splitlines() == [f"{wrong} {ARROW} {right}", "(true: no class)"]
        assert captions[1].splitlines() == [wrong, f"(true: {right})"]  # no other class is proposed
        assert captions[2] == f"{wrong} {ARROW} {right}"
        frames = [panel.spines["top"].get_edgecolor() for panel in figure.axes]
        assert frames == [to_rgba(WRONG), to_rgba(WRONG), to_rgba(UNKNOWN)]


def test_the_first_test_of_a_run_writes_the_files(tmp_path: Path) -> None:
    callback = LabelReport()
    report(tmp_path, callback, noisy_digits())
    before = (tmp_path / "label_report.csv").stat().st_mtime_ns
    assert "label_auroc" in report(tmp_path, callback, noisy_digits())
    assert (tmp_path / "label_report.csv").stat().st_mtime_ns == before


def test_labels_that_were_corrected_by_hand_survive_the_next_test(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cleaned_labels.csv"
    for callback in (LabelReport(0.9), LabelReport()):  # the second test replaces labels that nobody has corrected
        report(tmp_path, callback, noisy_digits())
    assert "was corrected" not in caplog.text
    assert "covers 1,170 of 1,300 images. The labels of the other 130 (held out for" in caplog.text
    corrected = path.read_text().replace("relabel", "keep", 1)
    path.write_text(corrected)
    report(tmp_path, LabelReport(0.9), noisy_digits())
    assert f"{path} was corrected by hand, and is unchanged: rename it, and test again" in caplog.text
    assert path.read_text() == corrected


def test_cleanlab_judges_the_same_predictions(tmp_path: Path) -> None:
    pytest.importorskip("cleanlab")
    metrics = report(tmp_path, LabelReport(compare_with_cleanlab=True), noisy_digits())
    table = pd.read_csv(tmp_path / "label_report.csv")
    issues, wrong = table["suspected_by_cleanlab"] == 1, table["given"] != table["clean_label"]
    assert metrics["label_precision_cleanlab"] == pytest.approx((issues & wrong).sum() / issues.sum())
    assert metrics["label_recall_cleanlab"] == pytest.approx((issues & wrong).sum() / wrong.sum())
    assert metrics["label_agreement_cleanlab"] == pytest.approx((issues == (table["suspected"] == 1)).mean())
    assert metrics["label_precision_cleanlab"] > 0.8


def test_cleanlab_finds_the_one_flipped_label() -> None:
    pytest.importorskip("cleanlab")
    label = torch.arange(60) % 3
    probability = 0.9 * F.one_hot(label, 3) + 0.1 / 3
    given = label.clone()
    given[7] = 2
    issues = find_label_issues(given.numpy(), probability.numpy())
    assert np.flatnonzero(issues).tolist() == [7]


def test_without_cleanlab_the_comparison_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_report, "find_spec", lambda name: None)
    LabelReport()
    with pytest.raises(ImportError, match=r"pip install 'noiseworks\[label-report\]'"):
        LabelReport(compare_with_cleanlab=True)


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(TypeError, match="LabelReport needs a Classifier, and LightningModule lacks num_classes"):
        LabelReport().setup(quiet(), LightningModule(), "test")
    module = NearestMean(noisy_digits())
    with pytest.raises(TypeError, match="; or fit the trainer with a DataLoader first, to report on its dataset"):
        LabelReport().setup(quiet(), module, "test")
    module.num_classes = 1
    with pytest.raises(ValueError, match=r"needs at least 2 classes, but model\.num_classes is 1"):
        LabelReport().setup(quiet(), module, "test")
