import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.image import imread
from torch import Tensor
from torch.nn.functional import one_hot

from callbacks.early_learning import EarlyLearning, history, watch
from tests.callbacks.early_learning.scripted import (
    CLEAN,
    GIVEN,
    NUM_CLASSES,
    OneBatch,
    Resumable,
    SaveAt,
    Scripted,
    authors_update_epoch,
    predictions,
    table,
    trainer_in,
)


class Listener(Callback):
    def __init__(self) -> None:
        self.told: list[list[int]] = []

    def on_early_learning_end(self, trainer: Trainer, pl_module: LightningModule, categories: list[int]) -> None:
        self.told.append(categories)


class Run(NamedTuple):
    directory: Path
    callback: EarlyLearning
    module: Scripted
    listener: Listener
    metrics: dict[str, float]

    def csv(self) -> bytes:
        return (self.directory / "early_learning.csv").read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    directory = tmp_path_factory.mktemp("uninterrupted")
    callback, module, listener = EarlyLearning(log_categories=True), Scripted(), Listener()
    trainer = trainer_in(directory, callback, listener)
    trainer.fit(module)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return Run(directory, callback, module, listener, metrics)


def share(of: Tensor) -> float:
    return of.double().mean().item()


def test_table_holds_fit_and_memorisation_of_every_epoch_and_category(uninterrupted: Run) -> None:
    rows = table(uninterrupted.directory)
    assert list(rows) == ["epoch", "category", "fit_given", "fit_true", "memorized", "ended"]
    assert list(zip(rows["epoch"], rows["category"], strict=True)) == list(
        itertools.product(range(14), range(NUM_CLASSES))
    )
    for row in rows.itertuples():
        right = predictions(row.epoch) == row.category
        false = (row.category == GIVEN) & (row.category != CLEAN)
        expected = [share(right[members]) for members in (row.category == GIVEN, row.category == CLEAN, false)]
        assert [row.fit_given, row.fit_true, row.memorized] == pytest.approx(expected, abs=1e-15)


def test_early_learning_ends_once_per_category_and_everyone_is_told(uninterrupted: Run) -> None:
    rows, module = table(uninterrupted.directory), uninterrupted.module
    fits = rows["fit_given"].to_numpy().reshape(14, NUM_CLASSES)
    expected = []
    for k in range(NUM_CLASSES):
        ends = (e for e in range(2, 14) if e >= authors_update_epoch(fits[: e + 1, k], 0.9, 14))
        expected.append(next(ends, -1))
    assert expected[2] == -1, "the slow category should still be learned"
    assert expected[0] != expected[1]
    assert uninterrupted.callback.history.ended_at.tolist() == expected
    assert module.told == sorted((expected[k], [k]) for k in (0, 1))
    assert uninterrupted.listener.told == [categories for _, categories in module.told]
    for row in rows.itertuples():
        assert row.ended == int(0 <= expected[row.category] <= row.epoch)


def test_overall_shares_are_logged_and_the_figure_is_drawn(uninterrupted: Run) -> None:
    predicted, metrics = predictions(13), uninterrupted.metrics
    assert metrics["train/fit_given"] == pytest.approx(share(predicted == GIVEN))
    assert metrics["train/fit_true"] == pytest.approx(share(predicted == CLEAN))
    assert metrics["train/memorized"] == pytest.approx(share((predicted == GIVEN)[GIVEN != CLEAN]))
    assert metrics["early_learning/ended"] == 2
    ended = uninterrupted.callback.history.ended_at.tolist()
    assert [metrics[f"train/early_learning_epochs_{k}"] for k in range(3)] == [ended[0] + 1, ended[1] + 1, 14]
    image = imread(uninterrupted.directory / "figures" / "early_learning.png")
    assert min(image.shape[:2]) > 300
    assert image[..., :3].std() > 0.05


def test_an_epoch_costs_no_more_than_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is written as a whole once, then appended to; the figure of the last epoch is drawn once."""
    whole: list[str] = []
    drawn: list[Path] = []
    monkeypatch.setattr(history, "write_text", lambda path, text: (whole.append(text), path.write_text(text)))
    monkeypatch.setattr(watch, "save_figure", lambda figure, path: drawn.append(path))
    trainer_in(tmp_path, EarlyLearning(draw_every_n_epochs=2), max_epochs=4).fit(Scripted())
    assert [text.count("\n") for text in whole] == [1 + NUM_CLASSES]
    assert len(table(tmp_path)) == 4 * NUM_CLASSES
    assert len(drawn) == 2


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    ("where", "epoch", "batch"),
    [("batch", 3, 4), ("batch", 3, 9), ("batch", 13, 9), ("epoch", 5, 0), ("validation", 3, 0)],
    ids=["mid-epoch", "last batch", "last batch of all", "end of epoch", "after validation"],
)
def test_a_resumed_run_has_the_table_of_the_uninterrupted_one(
    uninterrupted: Run, tmp_path: Path, where: str, epoch: int, batch: int
) -> None:
    path = tmp_path / "run.ckpt"
    data: Any = {"val_dataloaders": [torch.zeros(1)] if where == "validation" else None}
    trainer_in(tmp_path / "first", EarlyLearning(), SaveAt(path, where, epoch, batch)).fit(Scripted(), **data)
    resumed, module = EarlyLearning(), Scripted(first_batch=batch + 1 if where == "batch" and batch < 9 else 0)
    trainer_in(tmp_path / "second", resumed).fit(module, ckpt_path=path, weights_only=True, **data)
    assert (tmp_path / "second" / "early_learning.csv").read_bytes() == uninterrupted.csv()
    torch.testing.assert_close(
        resumed.history.curves, uninterrupted.callback.history.curves, rtol=0, atol=0, equal_nan=True
    )
    told_before = [told for told in uninterrupted.module.told if told[0] < epoch + (where == "epoch")]
    assert told_before + module.told == uninterrupted.module.told


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_half_counted_epoch_survives_another_number_of_processes(
    uninterrupted: Run, tmp_path: Path, before: int, after: int
) -> None:
    path = tmp_path / "run.ckpt"
    save = SaveAt(path, "batch", 3, 4)
    trainer_in(tmp_path / "first", EarlyLearning(), save, processes=before, max_epochs=4).fit(Scripted())
    (state,) = torch.load(path, weights_only=True)["callbacks"].values()
    assert state["running"]["counts"][0, 0].sum() == 5 * 16
    trainer = trainer_in(tmp_path / "second", EarlyLearning(), processes=after)
    trainer.fit(Scripted(first_batch=5), ckpt_path=path, weights_only=True)
    assert (tmp_path / "second" / "early_learning.csv").read_bytes() == uninterrupted.csv()


def test_records_of_an_interval_start_at_the_first_batch_and_restart_with_the_epoch(tmp_path: Path) -> None:
    """With 10 batches per epoch and interval 4, the records are: 0, 1-4, 5-8 of epoch 0; 0-2, 3-6 of epoch 1; 0, ..."""
    callback, path = EarlyLearning(interval=4, horizon=16), tmp_path / "run.ckpt"
    trainer_in(tmp_path, callback, SaveAt(path, "batch", 1, 5), max_epochs=3).fit(Scripted())
    cuts = [(0, 0, 1), (0, 1, 5), (0, 5, 9), (1, 0, 3), (1, 3, 7), (2, 0, 1), (2, 1, 5), (2, 5, 9)]
    batches = Resumable(0, 1).batches
    expected = []
    for epoch, start, stop in cuts:
        index = torch.cat(batches[start:stop])
        right = predictions(epoch)[index] == GIVEN[index]
        expected.append([share(right[GIVEN[index] == k]) for k in range(NUM_CLASSES)])
    torch.testing.assert_close(callback.history.records, torch.tensor(expected).double(), rtol=0, atol=1e-7)
    assert (table(tmp_path)["epoch"] == 2).sum() == NUM_CLASSES

    resumed = EarlyLearning(interval=4, horizon=16)
    trainer = trainer_in(tmp_path / "resumed", resumed, max_epochs=3)
    trainer.fit(Scripted(first_batch=6), ckpt_path=path, weights_only=True)
    assert torch.equal(resumed.history.records, callback.history.records)
    assert torch.equal(resumed.history.counts, callback.history.counts)


def test_pixels_are_measured_by_iou_and_the_background_is_not_tested(tmp_path: Path) -> None:
    callback, module = EarlyLearning(background=0), Scripted(per_pixel=True)
    trainer = trainer_in(tmp_path, callback, max_epochs=12)
    trainer.fit(module)
    rows = table(tmp_path)
    for row in rows.itertuples():
        predicted, given = predictions(row.epoch) == row.category, row.category == GIVEN
        assert row.fit_given == pytest.approx(((predicted & given).sum() / (predicted | given).sum()).item())
    mean = rows["fit_given"].tail(NUM_CLASSES).mean()
    assert trainer.callback_metrics["train/fit_given"].item() == pytest.approx(mean)
    assert callback.history.ended_at[0] == -1
    assert all(0 not in categories for _, categories in module.told)


def test_without_true_labels_nothing_is_claimed_about_memorisation(tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path, EarlyLearning(), max_epochs=2)
    trainer.fit(Scripted(with_truth=False))
    assert table(tmp_path)[["memorized", "fit_true"]].isna().all(axis=None)
    assert not {"train/fit_true", "train/memorized"} & set(trainer.callback_metrics)


@pytest.mark.parametrize(("reference", "fits"), [("original", [1.0, math.nan]), ("current", [math.nan, 0.0])])
def test_the_fit_is_measured_against_the_labels_asked_for(tmp_path: Path, reference: Any, fits: list[float]) -> None:
    """Labels 0 were corrected to 1, but 0 is predicted: all original labels are fitted, and no current label is."""
    module = OneBatch(predicted=[0, 0], label=[1, 1], original_label=[0, 0])
    trainer_in(tmp_path, EarlyLearning(reference=reference), max_epochs=1).fit(module)
    np.testing.assert_array_equal(table(tmp_path)["fit_given"], [*fits, math.nan])


@pytest.mark.parametrize(
    ("per_pixel", "metric", "value"), [(False, "label_accuracy", 3 / 4), (True, "label_miou", 2 / 3)]
)
def test_the_quality_of_corrected_labels_is_logged(tmp_path: Path, per_pixel: bool, metric: str, value: float) -> None:
    """The true labels are 0, 0, 1, 2. The third label was corrected to 1, and the second is still 1 instead of 0."""
    labels = {"label": [0, 1, 1, 2], "original_label": [0, 1, 2, 2], "clean_label": [0, 0, 1, 2]}
    trainer = trainer_in(tmp_path, EarlyLearning(), max_epochs=1)
    trainer.fit(OneBatch([0, 1, 1, 2], per_pixel, **labels))
    assert trainer.callback_metrics[f"train/{metric}"].item() == pytest.approx(value)


class Follower(Scripted):
    """The fit of class 0 seems to level off at 0.4, but rises from epoch 6 onwards, up to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.followed: list[tuple[int, list[int]]] = []

    def on_early_learning_tested(self, categories: list[int], epoch: int) -> None:
        self.followed.append((epoch, categories))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        epoch = self.current_epoch
        fitted = 0.4 * (1 - math.exp(-epoch - 0.5)) + 0.6 * min(max(epoch - 5, 0) / 3, 1)
        predicted, members = predictions(epoch), (GIVEN == 0).nonzero().flatten()
        predicted[members] = (torch.arange(len(members)) >= fitted * len(members)).long()
        return self.step_with(one_hot(predicted[batch["index"]], NUM_CLASSES).float())


def test_a_follower_hears_after_every_epoch_what_the_curves_say_then(tmp_path: Path) -> None:
    callback, module = EarlyLearning(), Follower()
    trainer_in(tmp_path, callback).fit(module)
    fits = callback.history.records.numpy()
    expected = [
        [k for k in range(NUM_CLASSES) if e >= 2 and e >= authors_update_epoch(fits[: e + 1, k], 0.9, 14)]
        for e in range(14)
    ]
    assert module.followed == list(enumerate(expected))
    again = [e for e in range(14) if (0 in expected[e]) != (0 in expected[e - 1]) and e > 0]
    assert len(again) == 3, "class 0 should end, be learned again, and end again"
    assert [epoch for epoch, categories in module.told if 0 in categories] == [again[0]]


def test_a_checkpoint_of_another_number_of_categories_is_refused() -> None:
    callback, other = EarlyLearning(), EarlyLearning()
    callback._start(num_classes=5)
    other._start(NUM_CLASSES)
    with pytest.raises(ValueError, match="5 categories and the module has 3"):
        other.load_state_dict(callback.state_dict())


@pytest.mark.parametrize(
    "wrong",
    [{"r": 1.5}, {"horizon": 1}, {"interval": 0}, {"min_jump": 0.0}, {"reference": "a"}, {"draw_every_n_epochs": 0}],
)
def test_bad_arguments_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        EarlyLearning(**wrong)


class OtherSteps(Scripted):
    def __init__(self, **step: Tensor) -> None:
        super().__init__()
        self.step = step

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return {"loss": self.weight.square(), **self.step}


def unnamed() -> Scripted:
    module = Scripted()
    del module.num_classes
    return module


@pytest.mark.parametrize(
    ("settings", "max_epochs", "module", "message"),
    [
        ({}, 1, OtherSteps, r"'logits'.*\['loss'\]"),
        ({}, 1, lambda: OtherSteps(logits=torch.zeros(16, 4)), r"\[16, 4\] do not match labels \[16\] of 3 classes"),
        ({}, 1, unnamed, "num_classes"),
        ({"background": 3}, 1, Scripted, r"background must be a category in 0 \.\.\. 2, got 3"),
        ({}, -1, Scripted, r"max_epochs is -1 and trainer\.max_steps is -1 .*: set trainer\.max_epochs, .*horizon"),
    ],
)
def test_what_cannot_be_watched_is_refused(
    tmp_path: Path, settings: dict[str, Any], max_epochs: int, module: Callable[[], Scripted], message: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        trainer_in(tmp_path, EarlyLearning(**settings), max_epochs=max_epochs).fit(module())
