from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from callbacks.labels.memorization import Memorization
from callbacks.labels.report import LabelReport
from datamodules.classification.digits import Digits
from datamodules.classification.image_sets import ImagesInMemory
from datamodules.classification.labelled_images import LabelledImages
from datamodules.classification.ood_images import OtherDigits
from datamodules.classification.selection.split import stratified_split
from datamodules.corruptions.label_noise import FromCSV, Symmetric
from datamodules.corruptions.label_noise.open_set import OpenSetLabelNoise
from experiments.saving.metrics_table import MetricsTable
from tests.datamodules.classification.patterns import NUM_CLASSES, Patterns, labels, loaded, on_process, patterns, ready
from tests.datamodules.recorder import trained
from tests.grouped import grouped
from tests.trainers import quiet


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=80), st.floats(0, 0.99), st.integers(0, 3))
def test_a_split_holds_out_the_same_fraction_of_every_class(label: list[int], fraction: float, seed: int) -> None:
    given_labels = torch.tensor(label)
    kept, held_out = stratified_split(given_labels, fraction, seed)
    assert sorted([*kept.tolist(), *held_out.tolist()]) == list(range(len(label)))
    assert kept.tolist() == sorted(kept.tolist())
    assert held_out.tolist() == sorted(held_out.tolist())
    for category in set(label):
        expected = round(fraction * label.count(category))
        assert int((given_labels[held_out] == category).sum()) == expected


def test_labels_that_were_written_give_another_run_the_same(tmp_path: Path) -> None:
    """The validation split is the same, too, because the table lists the whole set in its original order."""
    first = patterns(label_noise=Symmetric(0.5), validation_fraction=0.2, seed=1)
    trained(first, tmp_path)
    second = ready(patterns(label_noise=FromCSV(str(tmp_path / "labels.csv")), validation_fraction=0.2, seed=1))
    assert torch.equal(labels(first), labels(second))
    assert torch.equal(first.validation_set.label, second.validation_set.label)
    rows = [row.split(",") for row in (tmp_path / "labels.csv").read_text().splitlines()]
    assert rows[0] == ["index", "label", "clean_label", "split"]
    assert [row[0] for row in rows[1:]] == [str(position) for position in range(40)]
    held_out = [int(row[0]) for row in rows[1:] if row[3] == "validation"]
    assert held_out == first.validation_set.row.tolist()
    other_split = ready(patterns(label_noise=FromCSV(str(tmp_path / "labels.csv")), validation_fraction=0.5, seed=2))
    assert len(labels(other_split)) == 20


@pytest.mark.parametrize("rank", [0, 1])
def test_a_run_does_not_go_on_with_other_labels(tmp_path: Path, rank: int) -> None:
    """Whatever reads the training set rejects a label table that the user has edited, and a changed dataset."""
    label = np.random.default_rng(0).integers(NUM_CLASSES, size=40)
    table = tmp_path / "mine.csv"

    def resumed(**options: Any) -> LabelledImages:
        table.write_text("index,label\n" + "".join(f"{row},{value}\n" for row, value in enumerate(label)))
        data = patterns(label_noise=FromCSV(str(table)), validation_fraction=0.2, **options)
        data.trainer = on_process(rank, 2, tmp_path)
        return data

    first = resumed()
    first.trainer = on_process(0, 2, tmp_path)
    first.setup("fit")
    written = (tmp_path / "labels.csv").read_bytes()
    resumed().setup("fit")
    resumed().training_images_dataloader()
    with pytest.raises(ValueError, match=rf"{tmp_path}/labels.csv and the labels in {table} differ in the split of"):
        resumed(seed=1).setup("fit")
    label[[7, 30]] = (label[[7, 30]] + 1) % NUM_CLASSES
    message = (
        rf"{tmp_path}/labels.csv and the labels in {table} differ in the label of 2 of 40 samples, first at index 7: "
        rf"{(label[7] - 1) % NUM_CLASSES} in the first and {label[7]} in the second; a run keeps its first labels"
    )
    with pytest.raises(ValueError, match=message):
        resumed().setup("fit")
    with pytest.raises(ValueError, match=message):
        resumed().training_images_dataloader()  # as callbacks do during a test
    longer = (tmp_path / "labels.csv").read_text() + "40,0,training\n"
    assert (tmp_path / "labels.csv").read_bytes() == written
    (tmp_path / "labels.csv").write_text(longer)
    with pytest.raises(ValueError, match=rf"labels.csv and the labels in {table} differ in length, 41 and 40"):
        resumed().setup("fit")


class FirstClass(LightningModule):
    """Predicts class 0 for every image."""

    num_classes = 5

    def forward(self, image: Tensor) -> Tensor:
        return nn.functional.one_hot(torch.zeros(len(image), dtype=torch.int64), 5).float()

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None: ...


def measured(data: LabelledImages, directory: Path) -> dict[str, float]:
    """Return the metrics of the labels, and write the report to the directory."""
    trainer = quiet(logger=MetricsTable(directory), callbacks=[LabelReport(num_images=1), Memorization()])
    return dict(trainer.test(FirstClass(), datamodule=data, verbose=False)[0])


class NamedImages(ImagesInMemory):
    @property
    def names(self) -> list[str]:
        return [f"{row}.png" for row in range(len(self.label))]


class Files(Patterns):
    """The same images with file names."""

    def training(self) -> ImagesInMemory:
        source = super().training()
        return NamedImages(source.image, source.label)


def test_labels_that_a_user_has_verified_score_the_others_and_nothing_counts_that_nobody_has(tmp_path: Path) -> None:
    """Of 40 labels, eight are verified. A label is 0, which is never suspected, or 1, which is always suspected."""
    verified = {0: (0, 0), 1: (0, 2), 2: (1, 1), 3: (1, 0), 4: (1, 0), 5: (1, 3), 6: (0, 0), 7: (1, -1)}
    table = tmp_path / "mine.csv"
    table.write_text(
        "name,label,clean_label\n"
        + "".join(f"{row}.png,{given},{true}\n" for row, (given, true) in verified.items())
        + "".join(f"{row}.png,1,\n" for row in range(len(verified), 40))
    )
    data = loaded(Files, batch_size=8, label_noise=FromCSV(str(table)))
    metrics = measured(data, tmp_path)
    assert metrics["test/labels_suspected"] == pytest.approx(37 / 40)
    assert metrics["test/label_precision"] == pytest.approx(4 / 5)
    assert metrics["test/label_recall"] == pytest.approx(4 / 5)
    assert metrics["test/memorized"] == pytest.approx(1 / 5)
    assert metrics["test/recovered"] == pytest.approx(2 / 5)
    report = pd.read_csv(tmp_path / "label_report.csv")
    assert dict(report.set_index("row")["clean_label"].dropna().astype(int)) == {
        row: true for row, (_, true) in verified.items()
    }
    for name in ("labels.csv", "label_report.csv"):
        key = "index" if name == "labels.csv" else "row"
        column = "label" if name == "labels.csv" else "given"
        again = loaded(Files, batch_size=8, label_noise=FromCSV(str(tmp_path / name), column=column, key=key))
        again.setup("fit")
        assert torch.equal(again.train_set.label, data.train_set.label)
        assert torch.equal(again.train_set.clean_label, data.train_set.clean_label)


def web_digits(**options: Any) -> LabelledImages:
    return LabelledImages(
        OpenSetLabelNoise(Digits(num_classes=5), OtherDigits([5, 6, 7, 8, 9]), 0.4),
        64,
        **grouped(LabelledImages, options),
    )


def test_the_report_and_the_labels_of_a_run_with_foreign_images_label_another(tmp_path: Path) -> None:
    first = web_digits(label_noise=Symmetric(0.3), seed=0)
    measured(first, tmp_path)
    proposals = FromCSV(str(tmp_path / "label_report.csv"), column="proposed", key="row")
    for noise, expected in (
        (proposals, torch.zeros(len(labels(first)))),
        (FromCSV(str(tmp_path / "labels.csv")), None),
    ):
        again = web_digits(label_noise=noise, seed=0)
        again.setup("fit")
        assert again.train_set.label.tolist() == (labels(first) if expected is None else expected).tolist()
        assert torch.equal(again.train_set.clean_label, first.train_set.clean_label)
        assert again.train_set.clean_label.min() == -1
    with pytest.raises(
        ValueError, match="the file is for a different dataset, or for a different order of this dataset"
    ):
        web_digits(label_noise=proposals, seed=1).setup("fit")  # replaces other images


def test_clean_labels_are_not_written(tmp_path: Path) -> None:
    trained(patterns(), tmp_path)
    assert not (tmp_path / "labels.csv").exists()


def test_dropped_images_are_left_out_of_training_and_validation_alone(tmp_path: Path) -> None:
    """A second run, which reads the label table of the first run, leaves out the same images."""
    before = ready(patterns(validation_fraction=0.2, seed=1))
    gone = [int(before.train_set.row[3]), int(before.validation_set.row[2])]
    path = tmp_path / "mine.csv"
    path.write_text("index,label,action\n" + "".join(f"{row},0,drop\n" for row in gone))
    first = patterns(label_noise=FromCSV(str(path), partial=True), validation_fraction=0.2, seed=1)
    trained(first, tmp_path)
    again = patterns(label_noise=FromCSV(str(tmp_path / "labels.csv")), validation_fraction=0.2, seed=1)
    for data in (first, ready(again)):
        for part, whole in ((data.train_set, before.train_set), (data.validation_set, before.validation_set)):
            assert part.row.tolist() == [row for row in whole.row.tolist() if row not in gone]
    table = pd.read_csv(tmp_path / "labels.csv")
    assert table.index[table["split"] == "dropped"].tolist() == sorted(gone)
    path.write_text("index,label,action\n" + "".join(f"{row},0,drop\n" for row in range(40)))
    with pytest.raises(ValueError, match=rf"{path} drops all of the 32 training images"):
        patterns(label_noise=FromCSV(str(path)), validation_fraction=0.2, seed=1).setup("fit")
    held_out = patterns(label_noise=FromCSV(str(path)), seed=1)
    held_out.setup("test")
    assert len(held_out.test_set) == len(patterns().images.test().label)
