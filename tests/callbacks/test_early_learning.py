import copy
import csv
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from scipy.optimize import curve_fit
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from callbacks.early_learning.counts import count_categories, count_right_labels, label_fit
from callbacks.early_learning.curve import (
    Curve,
    detect,
    end_of_early_learning,
    fit_learning_curve,
    learning_curve,
    relative_slope_change,
    slope,
    start_shift,
)
from callbacks.early_learning.figure import draw_early_learning
from callbacks.early_learning.watch import EarlyLearning
from experiments.run_directory import MetricsTable

# the curve

CURVES = [Curve(a, b, c) for a in (0.4, 0.9) for b in (0.5, 0.8, 1.0) for c in (0.7, 3.0)]


def authors_update_epoch(y: np.ndarray, r: float, n: int, epochs_per_record: float = 1.0, shift: bool = False) -> float:
    """The rule written down once more, straight from the definition."""
    start = 0
    for k in range(len(y) - 1 if shift else 0):
        if y[k + 1] - y[k] < 0.1:
            start = k + 1
        else:
            break
    y = y[start:]
    x = np.linspace(0, len(y) * epochs_per_record, len(y))
    bounds = ([0, 0, 0], [1, 1, np.inf])
    weights = {"sigma": np.geomspace(1, 0.1, len(y)), "absolute_sigma": True}
    (a, b, c), _ = curve_fit(
        lambda t, a, b, c: a * (1 - np.exp(-1 / c * t**b)), x, y, p0=(1, 1, 1), method="trf", bounds=bounds, **weights
    )
    u = np.arange(1, n) + 1e-6
    derivative = a * b / c * np.exp(-1 / c * u**b) * u ** (b - 1)
    return int((abs(derivative - derivative[0]) / derivative[0] <= r).sum()) + 1 + start * epochs_per_record


@pytest.mark.parametrize("curve", CURVES)
def test_the_curve_starts_at_zero_rises_and_has_the_stated_slope(curve: Curve) -> None:
    t = np.linspace(1, 10, 19)
    assert learning_curve(0.0, *curve) == 0
    assert (np.diff(learning_curve(t, *curve)) > 0).all()
    h, u = 1e-4, t + 1e-6
    derivative = (learning_curve(u + h, *curve) - learning_curve(u - h, *curve)) / (2 * h)
    # the rounding of f, about 1e-16, over h bounds what a difference quotient can show
    np.testing.assert_allclose(slope(t, *curve), derivative, rtol=1e-6, atol=1e-11)


@pytest.mark.parametrize("curve", CURVES)
def test_the_fit_recovers_the_curve_it_was_sampled_from(curve: Curve) -> None:
    num_records = 40
    found = fit_learning_curve(learning_curve(np.linspace(0, num_records, num_records), *curve), num_records)
    assert found is not None
    np.testing.assert_allclose(found, curve, atol=1e-2)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.05, 1), st.floats(0.1, 1), st.floats(0.1, 10))
def test_the_relative_slope_change_starts_at_zero_and_never_falls(a: float, b: float, c: float) -> None:
    change = relative_slope_change(np.arange(1, 50), Curve(a, b, c))
    assert change[0] == 0
    assert (np.diff(change) >= 0).all()
    assert change[-1] <= 1


@pytest.mark.parametrize(("c", "r"), [(3.0, 0.9), (1.5, 0.9), (6.0, 0.5)])
def test_an_exponential_curve_ends_at_the_closed_form_epoch(c: float, r: float) -> None:
    """With b = 1, rc(e) = 1 - exp(-(e - 1) / c), which exceeds r first above 1 - c log(1 - r)."""
    expected = math.floor(1 - c * math.log(1 - r)) + 1
    num_records = 25
    values = learning_curve(np.linspace(0, num_records, num_records), 0.8, 1.0, c)
    detection = detect(values, epochs_per_record=1.0, r=r, horizon=100, min_jump=None)
    assert detection is not None
    assert detection.end == expected


def test_records_between_epochs_give_the_end_in_epochs() -> None:
    per_record = 0.25
    values = learning_curve(np.linspace(0, 60 * per_record, 60), 0.8, 1.0, 3.0)
    detection = detect(values, epochs_per_record=per_record, r=0.9, horizon=16, min_jump=None)
    assert detection is not None
    assert detection.end == 8


def test_a_late_start_moves_the_end_by_as_many_records() -> None:
    values = learning_curve(np.linspace(0, 20, 20), 0.8, 0.9, 2.0)
    assert start_shift(values, 0.1) == 0
    prompt = detect(values, 1.0, r=0.9, horizon=60, min_jump=0.1)
    late = detect(np.concatenate([np.full(7, 0.002), values]), 1.0, r=0.9, horizon=60, min_jump=0.1)
    assert prompt is not None
    assert late is not None
    assert late.start == 7
    assert late.end - prompt.end == pytest.approx(7, abs=1)


def test_a_curve_without_a_jump_never_ends() -> None:
    values = np.linspace(0.02, 0.95, 30)  # rises by less than 0.1 each time
    assert all(detect(values[: e + 1], 1.0, r=0.9, horizon=30, min_jump=0.1) is None for e in range(30))


def test_the_threshold_has_its_limits() -> None:
    """No change exceeds r = 1, and with r = 0 the first epoch that counts is 2."""
    for curve in CURVES:
        assert end_of_early_learning(curve, r=1.0, horizon=30) == 30
        assert end_of_early_learning(curve, r=0.0, horizon=30) == 2


@pytest.mark.parametrize(
    "values",
    [[], [0.1], [0.1, 0.4], [math.nan] * 12, [math.nan, 0.3, math.nan, 0.4, math.nan]],
    ids=["empty", "one", "two", "never seen", "seen twice"],
)
def test_nothing_is_said_about_curves_that_say_nothing(values: list[float]) -> None:
    assert detect(values, 1.0, r=0.9, horizon=30, min_jump=None) is None


@pytest.mark.parametrize("level", [0.0, 0.002])
def test_a_category_that_is_never_learned_never_ends(level: float) -> None:
    for epoch in range(29):
        detection = detect([level * (e % 2) for e in range(epoch + 1)], 1.0, r=0.9, horizon=30, min_jump=0.1)
        assert detection is None or epoch < detection.end


def test_a_flat_curve_has_no_end() -> None:
    assert end_of_early_learning(Curve(0.0, 1.0, 1.0), r=0.9, horizon=30) is None
    assert end_of_early_learning(Curve(0.5, 0.0, 1.0), r=0.9, horizon=30) is None
    assert end_of_early_learning(Curve(0.5, 1.0, 0.0), r=0.9, horizon=30) is None


def test_a_fit_that_does_not_converge_is_no_detection(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("maximum number of function evaluations is exceeded")

    monkeypatch.setattr("callbacks.early_learning.curve.curve_fit", fail)
    assert fit_learning_curve(np.linspace(0, 1, 10), 10) is None


def test_a_missing_record_keeps_the_others_in_their_place() -> None:
    values = learning_curve(np.linspace(0, 30, 30), 0.8, 0.9, 2.0)
    values[[3, 11]] = math.nan
    found = fit_learning_curve(values, 30)
    assert found is not None
    np.testing.assert_allclose(found, (0.8, 0.9, 2.0), atol=1e-2)


@pytest.mark.parametrize("shift", [False, True])
def test_detection_agrees_with_the_rule_on_noisy_curves(shift: bool) -> None:
    random = np.random.default_rng(0)
    for _ in range(10):
        a, b, c = random.uniform(0.3, 0.9), random.uniform(0.5, 1), random.uniform(0.5, 3)
        values = learning_curve(np.arange(24) + 0.5, a, b, c) + random.normal(0, 0.01, 24)
        values = np.concatenate([np.full(3 * shift, 0.001), values])
        for length in range(10, len(values)):
            detection = detect(values[:length], 1.0, r=0.9, horizon=40, min_jump=0.1 if shift else None)
            if length - start_shift(values[:length], 0.1) * shift >= 3:
                assert detection is not None
                assert detection.end == authors_update_epoch(values[:length], 0.9, 40, shift=shift)


# the counts


def random_labels(shape: tuple[int, ...], num_classes: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape[0], num_classes, *shape[1:], generator=generator)
    given, true = torch.randint(num_classes, (2, *shape), generator=generator)
    return logits, given, true


@pytest.mark.parametrize("shape", [(50,), (4, 6, 5)], ids=["samples", "pixels"])
def test_counts_equal_counting_one_by_one(shape: tuple[int, ...]) -> None:
    num_classes = 4
    logits, given, true = random_labels(shape, num_classes, seed=0)
    given.view(-1)[::7], true.view(-1)[::5] = 255, 255
    expected = np.zeros((8, num_classes), dtype=int)
    for p, y, z in zip(logits.argmax(1).flatten(), given.flatten(), true.flatten(), strict=True):
        for k in range(num_classes):
            expected[:3, k] += (y == k, y != 255 and p == k, y == k and p == k)
            expected[3:6, k] += (z == k, z != 255 and p == k, z == k and p == k)
            false = y == k and z not in (k, 255)
            expected[6:, k] += (false, false and p == k)
    np.testing.assert_array_equal(count_categories(logits, given, true), expected)
    without_truth = count_categories(logits, given)
    np.testing.assert_array_equal(without_truth[:3], expected[:3])
    assert (without_truth[3:] == 0).all()


def test_255_is_a_category_of_samples_and_ignored_in_pixels() -> None:
    logits, label = torch.zeros(2, 300, 1, 1), torch.full((2, 1, 1), 255)
    logits[:, 255] = 1
    assert count_categories(logits, label)[2].sum() == 0
    assert count_categories(logits.flatten(1), label.flatten())[2, 255] == 2


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 29), st.integers(0, 100))
def test_counts_of_two_parts_add_up_to_those_of_the_whole(cut: int, seed: int) -> None:
    logits, given, true = random_labels((30, 3, 3), 5, seed)
    parts = count_categories(logits[:cut], given[:cut], true[:cut]) + count_categories(
        logits[cut:], given[cut:], true[cut:]
    )
    whole = count_categories(logits, given, true)
    assert torch.equal(parts, whole)
    assert torch.equal(label_fit(*parts[:3], per_pixel=True), label_fit(*whole[:3], per_pixel=True))


@pytest.mark.parametrize("per_pixel", [True, False])
def test_fits_of_many_pixels_are_not_rounded_to_single_precision(per_pixel: bool) -> None:
    """2^24 + 1 is the first whole number that single precision lacks."""
    many = torch.tensor([2**24 + 1])
    assert label_fit(many, many, many, per_pixel).item() == 1
    wrong = 2 if per_pixel else 1  # of the union, a pixel that is predicted wrongly is two
    one_less = label_fit(many, many, many - 1, per_pixel).item()
    assert one_less == pytest.approx(1 - wrong / (many.item() + wrong - 1), rel=1e-12)


def test_counting_never_waits_for_the_device() -> None:
    """On the meta device whatever needs a value fails."""
    label = torch.zeros(3, 4, 4, dtype=torch.int64, device="meta")
    assert count_categories(torch.zeros(3, 5, 4, 4, device="meta"), label, label).is_meta
    assert count_right_labels(label, label, 5).is_meta


def test_right_labels_equal_counting_one_by_one() -> None:
    """A pixel that is labelled 255 misses its true category; one that is truly 255 does not count."""
    num_classes = 4
    _, current, true = random_labels((4, 6, 5), num_classes, seed=1)
    current.view(-1)[::7], true.view(-1)[::5] = 255, 255
    expected = np.zeros((3, num_classes), dtype=int)
    for y, z in zip(current.flatten(), true.flatten(), strict=True):
        for k in range(num_classes):
            expected[:, k] += (z == k, z != 255 and y == k, y == k and z == k)
    np.testing.assert_array_equal(count_right_labels(current, true, num_classes), expected)


# the callback

NUM_CLASSES = 3
NUM_SAMPLES = 149  # the last batch has 5 samples, an odd number
CURVE_OF_CLASS = [Curve(0.8, 1.0, 1.5), Curve(0.9, 1.0, 3.0), Curve(0.9, 1.0, 60.0)]


def given_labels() -> Tensor:
    return torch.arange(NUM_SAMPLES) % NUM_CLASSES


def clean_labels() -> Tensor:
    """Every fourth label is wrong."""
    label = given_labels()
    return torch.where(torch.arange(NUM_SAMPLES) % 4 == 0, (label + 1) % NUM_CLASSES, label)


def scripted_predictions(epoch: int) -> Tensor:
    """The share f(epoch + 1/2) of the samples of each class, lowest index first, is predicted as given."""
    given = given_labels()
    predicted = (given + 2) % NUM_CLASSES
    for k, curve in enumerate(CURVE_OF_CLASS):
        members = (given == k).nonzero().flatten()
        learned = members[: round(float(learning_curve(epoch + 0.5, *curve)) * len(members))]
        predicted[learned] = k
    return predicted


class Resumable(Sampler):
    """Batches of 16 in a scrambled order, shared by the processes; starts where a checkpoint was written."""

    def __init__(self, rank: int, world_size: int) -> None:
        order = torch.randperm(NUM_SAMPLES, generator=torch.Generator().manual_seed(0))
        self.batches = [batch[rank::world_size] for batch in order.split(16)]
        self.position = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        start, self.position = self.position, 0
        return iter(self.batches[start:])


class Scripted(LightningModule):
    """A classifier, or a segmenter of 1 x 1 images, whose training predictions are known in advance."""

    def __init__(self, per_pixel: bool = False, first_batch: int = 0, with_truth: bool = True) -> None:
        super().__init__()
        self.num_classes = NUM_CLASSES
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.per_pixel = per_pixel
        self.first_batch = first_batch
        self.with_truth = with_truth
        self.told: list[tuple[int, list[int]]] = []

    def forward(self, image: Tensor) -> Tensor:
        return image.flatten(1)[:, :NUM_CLASSES]

    def on_early_learning_end(self, categories: list[int], epoch: int) -> None:
        self.told.append((epoch, categories))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        predicted = scripted_predictions(self.current_epoch)[batch["index"]]
        logits = torch.nn.functional.one_hot(predicted, NUM_CLASSES).float()
        return {"loss": self.weight.square(), "logits": logits[:, :, None, None] if self.per_pixel else logits}

    def train_dataloader(self) -> DataLoader:
        sampler = Resumable(self.trainer.global_rank, self.trainer.world_size)
        sampler.position = self.first_batch

        class Samples(torch.utils.data.Dataset):
            def __init__(self, module: "Scripted") -> None:
                self.per_pixel, self.with_truth = module.per_pixel, module.with_truth

            def __getitem__(self, index: Tensor) -> dict[str, Tensor]:
                batch = {"label": given_labels()[index]}
                if self.with_truth:
                    batch["clean_label"] = clean_labels()[index]
                if self.per_pixel:
                    batch = {key: label[:, None, None] for key, label in batch.items()}
                return batch | {"index": index, "image": torch.zeros(len(index), 1, 2, 2)}

        return DataLoader(Samples(self), sampler=sampler, batch_size=None)

    def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Listener(Callback):
    def __init__(self) -> None:
        self.told: list[list[int]] = []

    def on_early_learning_end(self, trainer: Trainer, pl_module: LightningModule, categories: list[int]) -> None:
        self.told.append(categories)


class SaveAt(Checkpoint):
    """Writes one checkpoint at a place of the loop."""

    def __init__(self, path: Path, where: str, epoch: int, batch: int = 0) -> None:
        self.path, self.where, self.epoch, self.batch = path, where, epoch, batch

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if (self.where, self.epoch, self.batch) == ("batch", trainer.current_epoch, args[-1]):
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if (self.where, self.epoch) == ("epoch", trainer.current_epoch):
            trainer.save_checkpoint(self.path)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if (self.where, self.epoch) == ("validation", trainer.current_epoch):
            trainer.save_checkpoint(self.path)


def trainer_in(directory: Path, *callbacks: Callback, processes: int = 1, max_epochs: int = 14) -> Trainer:
    return Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp_fork" if processes > 1 else "auto",
        max_epochs=max_epochs,
        callbacks=list(callbacks),
        logger=MetricsTable(directory),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def table(directory: Path) -> list[dict[str, str]]:
    with (directory / "early_learning.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EarlyLearning, Scripted, Listener, Trainer]:
    directory = tmp_path_factory.mktemp("uninterrupted")
    callback, module, listener = EarlyLearning(), Scripted(), Listener()
    trainer = trainer_in(directory, callback, listener)
    trainer.fit(module)
    return directory, callback, module, listener, trainer


def test_table_holds_fit_and_memorisation_of_every_epoch_and_category(uninterrupted: tuple) -> None:
    given, clean = given_labels(), clean_labels()
    rows = table(uninterrupted[0])
    assert [(int(row["epoch"]), int(row["category"])) for row in rows] == list(
        itertools.product(range(14), range(NUM_CLASSES))
    )
    for row in rows:
        predicted, k = scripted_predictions(int(row["epoch"])), int(row["category"])
        for column, members in (("fit_given", given == k), ("fit_true", clean == k)):
            assert float(row[column]) == pytest.approx((predicted[members] == k).double().mean().item(), abs=1e-15)
        false = (given == k) & (clean != k)
        assert float(row["memorized"]) == pytest.approx((predicted[false] == k).double().mean().item(), abs=1e-15)


def test_early_learning_ends_once_per_category_and_everyone_is_told(uninterrupted: tuple) -> None:
    directory, callback, module, listener, _ = uninterrupted
    fits = np.array([float(row["fit_given"]) for row in table(directory)]).reshape(14, NUM_CLASSES)
    expected = {}
    for k in range(NUM_CLASSES):
        ends = (e for e in range(2, 14) if e >= authors_update_epoch(fits[: e + 1, k], 0.9, 14))
        expected[k] = next(ends, -1)
    assert expected[2] == -1, "the slow category should still be learned"
    assert expected[0] != expected[1]
    assert callback.ended_at.tolist() == [expected[k] for k in range(NUM_CLASSES)]
    assert module.told == sorted((expected[k], [k]) for k in (0, 1))
    assert listener.told == [categories for _, categories in module.told]
    for row in table(directory):
        end = expected[int(row["category"])]
        assert row["ended"] == str(int(0 <= end <= int(row["epoch"])))


def test_overall_shares_are_logged(uninterrupted: tuple) -> None:
    given, clean, predicted = given_labels(), clean_labels(), scripted_predictions(13)
    metrics = uninterrupted[-1].callback_metrics
    false = given != clean
    assert metrics["train/fit_given"].item() == pytest.approx((predicted == given).double().mean().item())
    assert metrics["train/fit_true"].item() == pytest.approx((predicted == clean).double().mean().item())
    assert metrics["train/memorized"].item() == pytest.approx((predicted == given)[false].double().mean().item())
    assert metrics["early_learning/ended"] == 2


def test_the_figure_is_drawn(uninterrupted: tuple) -> None:
    from matplotlib.image import imread

    image = imread(uninterrupted[0] / "figures" / "early_learning.png")
    assert min(image.shape[:2]) > 300
    assert image[..., :3].std() > 0.05


@pytest.mark.parametrize("num_classes", [4, 30])
@pytest.mark.parametrize("with_truth", [False, True])
def test_the_figure_has_a_panel_for_what_is_known(num_classes: int, with_truth: bool) -> None:
    random = np.random.default_rng(0)
    shares = random.random((6, num_classes))
    unknown = np.full_like(shares, np.nan)
    overall = {"fit_given": shares[:, 0], "fit_true": (shares if with_truth else unknown)[:, 1]}
    overall["memorized"] = (shares if with_truth else unknown)[:, 2]
    overall["label_quality"] = unknown[:, 0]
    curves = np.tile([0.8, 0.9, 2.0, 1.0, 5.0], (num_classes, 1))
    figure = draw_early_learning(
        epochs=range(6),
        fits=shares,
        fit_epochs=range(6),
        curves=curves,
        ended_at=np.full(num_classes, 4),
        memorized=shares if with_truth else unknown,
        overall=overall,
        names=[f"class {k}" for k in range(num_classes)],
        fit_name="share",
    )
    assert len(figure.axes) == 1 + with_truth
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert ("class 0" in labels) == (num_classes == 4)


@pytest.mark.parametrize(
    ("where", "epoch", "batch"),
    [("batch", 3, 4), ("batch", 3, 9), ("batch", 13, 9), ("epoch", 5, 0), ("validation", 3, 0)],
    ids=["mid-epoch", "last batch", "last batch of all", "end of epoch", "after validation"],
)
def test_a_resumed_run_has_the_table_of_the_uninterrupted_one(
    uninterrupted: tuple, tmp_path: Path, where: str, epoch: int, batch: int
) -> None:
    path = tmp_path / "run.ckpt"
    validation = [torch.zeros(1)] if where == "validation" else None
    trainer_in(tmp_path / "first", EarlyLearning(), SaveAt(path, where, epoch, batch)).fit(
        Scripted(), val_dataloaders=validation
    )
    torch.load(path, weights_only=True)
    resumed, module = EarlyLearning(), Scripted(first_batch=batch + 1 if where == "batch" and batch < 9 else 0)
    trainer_in(tmp_path / "second", resumed).fit(module, val_dataloaders=validation, ckpt_path=path, weights_only=True)
    expected = (uninterrupted[0] / "early_learning.csv").read_bytes()
    assert (tmp_path / "second" / "early_learning.csv").read_bytes() == expected
    assert torch.equal(resumed.curves, uninterrupted[1].curves) or torch.allclose(
        resumed.curves, uninterrupted[1].curves, equal_nan=True, rtol=0, atol=0
    )
    told_before = [told for told in uninterrupted[2].told if told[0] < epoch + (where == "epoch")]
    assert told_before + module.told == uninterrupted[2].told


def test_two_processes_count_what_one_counts(uninterrupted: tuple, tmp_path: Path) -> None:
    trainer_in(tmp_path, EarlyLearning(), processes=2).fit(Scripted())
    expected = (uninterrupted[0] / "early_learning.csv").read_bytes()
    assert (tmp_path / "early_learning.csv").read_bytes() == expected


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 2)])
def test_a_half_counted_epoch_survives_another_number_of_processes(
    uninterrupted: tuple, tmp_path: Path, before: int, after: int
) -> None:
    path = tmp_path / "run.ckpt"
    trainer_in(tmp_path / "first", EarlyLearning(), SaveAt(path, "batch", 3, 4), processes=before, max_epochs=4).fit(
        Scripted()
    )
    partial = next(iter(torch.load(path, weights_only=True)["callbacks"].values()))["open_counts"]
    assert partial[0, 0].sum() == 5 * 16
    trainer_in(tmp_path / "second", EarlyLearning(), processes=after).fit(
        Scripted(first_batch=5), ckpt_path=path, weights_only=True
    )
    expected = (uninterrupted[0] / "early_learning.csv").read_bytes()
    assert (tmp_path / "second" / "early_learning.csv").read_bytes() == expected


def test_records_of_an_interval_start_at_the_first_batch_and_restart_with_the_epoch(tmp_path: Path) -> None:
    """With 10 batches an epoch and an interval of 4: batch 0, 1-4, 5-8 of epoch 0, then 0-2, 3-6 of epoch 1, 0, ..."""
    callback = EarlyLearning(interval=4, horizon=16)
    path = tmp_path / "run.ckpt"
    trainer_in(tmp_path, callback, SaveAt(path, "batch", 1, 5), max_epochs=3).fit(Scripted())
    given = given_labels()
    windows = [(0, 0, 1), (0, 1, 5), (0, 5, 9), (1, 0, 3), (1, 3, 7), (2, 0, 1), (2, 1, 5), (2, 5, 9)]
    assert callback.records.shape == (len(windows), NUM_CLASSES)
    batches = Resumable(0, 1).batches
    for record, (epoch, start, stop) in zip(callback.records, windows, strict=True):
        index = torch.cat(batches[start:stop])
        predicted = scripted_predictions(epoch)[index]
        for k in range(NUM_CLASSES):
            members = given[index] == k
            assert record[k].item() == pytest.approx((predicted[members] == k).double().mean().item(), abs=1e-15)
    assert sum(int(row["epoch"]) == 2 for row in table(tmp_path)) == NUM_CLASSES

    resumed = EarlyLearning(interval=4, horizon=16)
    trainer_in(tmp_path / "resumed", resumed, max_epochs=3).fit(
        Scripted(first_batch=6), ckpt_path=path, weights_only=True
    )
    assert torch.equal(resumed.records, callback.records)
    assert torch.equal(resumed.counts, callback.counts)


def test_pixels_are_measured_by_iou_and_the_background_is_not_tested(tmp_path: Path) -> None:
    callback, module = EarlyLearning(background=0), Scripted(per_pixel=True)
    trainer = trainer_in(tmp_path, callback, max_epochs=12)
    trainer.fit(module)
    given = given_labels()
    for row in table(tmp_path):
        predicted, k = scripted_predictions(int(row["epoch"])), int(row["category"])
        both, either = ((predicted == k) & (given == k)).sum(), ((predicted == k) | (given == k)).sum()
        assert float(row["fit_given"]) == pytest.approx((both / either).item())
    last = [float(row["fit_given"]) for row in table(tmp_path)[-NUM_CLASSES:]]
    assert trainer.callback_metrics["train/fit_given"].item() == pytest.approx(np.mean(last))
    assert callback.ended_at[0] == -1
    assert all(0 not in categories for _, categories in module.told)


def test_without_true_labels_nothing_is_claimed_about_memorisation(tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path, EarlyLearning(), max_epochs=2)
    trainer.fit(Scripted(with_truth=False))
    assert {row["memorized"] for row in table(tmp_path)} == {row["fit_true"] for row in table(tmp_path)} == {""}
    assert not {"train/fit_true", "train/memorized"} & set(trainer.callback_metrics)


@pytest.mark.parametrize("reference", ["original", "current"])
def test_the_fit_is_measured_against_the_labels_asked_for(tmp_path: Path, reference: Any) -> None:
    """Label 0 was corrected to 1, and 0 is predicted for what was 1: the original labels are all fitted, or none."""

    class Corrected(Scripted):
        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
            return {"loss": self.weight.square(), "logits": torch.eye(NUM_CLASSES)[[0, 0]]}

        def train_dataloader(self) -> DataLoader:
            batch = {"label": torch.tensor([1, 1]), "original_label": torch.tensor([0, 0]), "index": torch.arange(2)}
            return DataLoader([batch], batch_size=None)

    trainer_in(tmp_path, EarlyLearning(reference=reference), max_epochs=1).fit(Corrected())
    fits = [row["fit_given"] for row in table(tmp_path)]
    assert fits == (["1.0", "", ""] if reference == "original" else ["", "0.0", ""])


@pytest.mark.parametrize("per_pixel", [False, True], ids=["samples", "pixels"])
def test_the_quality_of_corrected_labels_is_logged(tmp_path: Path, per_pixel: bool) -> None:
    """Of four labels, truly 0, 0, 1, 2, the third was corrected to be right, and the second is wrong: 1 for 0."""

    class Corrected(Scripted):
        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
            logits = torch.eye(NUM_CLASSES)[[0, 1, 1, 2]]
            return {"loss": self.weight.square(), "logits": logits[..., None, None] if self.per_pixel else logits}

        def train_dataloader(self) -> DataLoader:
            labels = {"label": [0, 1, 1, 2], "original_label": [0, 1, 2, 2], "clean_label": [0, 0, 1, 2]}
            batch = {key: torch.tensor(label) for key, label in labels.items()}
            if self.per_pixel:
                batch = {key: label[:, None, None] for key, label in batch.items()}
            return DataLoader([batch], batch_size=None)

    trainer = trainer_in(tmp_path, EarlyLearning(), max_epochs=1)
    trainer.fit(Corrected(per_pixel))
    if per_pixel:
        assert trainer.callback_metrics["train/label_miou"].item() == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
    else:
        assert trainer.callback_metrics["train/label_accuracy"].item() == pytest.approx(3 / 4)


class Follower(Scripted):
    """The fit of class 0 seems to level off at 0.4, and rises to 1 from epoch 6 on."""

    def __init__(self) -> None:
        super().__init__()
        self.followed: list[tuple[int, list[int]]] = []

    def on_early_learning_tested(self, categories: list[int], epoch: int) -> None:
        self.followed.append((epoch, categories))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        epoch = self.current_epoch
        share = 0.4 * (1 - math.exp(-epoch - 0.5)) + 0.6 * min(max(epoch - 5, 0) / 3, 1)
        predicted, members = scripted_predictions(epoch), (given_labels() == 0).nonzero().flatten()
        predicted[members] = (torch.arange(len(members)) >= share * len(members)).long()
        predicted = predicted[batch["index"]]
        return {"loss": self.weight.square(), "logits": torch.nn.functional.one_hot(predicted, NUM_CLASSES).float()}


def test_a_follower_hears_after_every_epoch_what_the_curves_say_then(tmp_path: Path) -> None:
    callback, module = EarlyLearning(), Follower()
    trainer_in(tmp_path, callback).fit(module)
    fits = callback.records.numpy()
    expected = [
        [k for k in range(NUM_CLASSES) if e >= 2 and e >= authors_update_epoch(fits[: e + 1, k], 0.9, 14)]
        for e in range(14)
    ]
    assert module.followed == list(enumerate(expected))
    again = [e for e in range(14) if (0 in expected[e]) != (0 in expected[e - 1]) and e > 0]
    assert len(again) == 3, "class 0 should end, be learned again, and end again"
    assert [epoch for epoch, categories in module.told if 0 in categories] == [again[0]]


def test_state_survives_a_round_trip() -> None:
    callback = EarlyLearning()
    callback.num_classes, callback.ended_at = NUM_CLASSES, torch.tensor([-1, 4, -1])
    callback.epochs, callback.counts = [0, 1], torch.arange(66).view(2, 11, 3)
    callback.records, callback.curves = torch.rand(2, 3), torch.rand(3, 5)
    callback._windows, callback._window, callback._open_epoch = [torch.ones(11, 3)], torch.zeros(11, 3), 2
    state = copy.deepcopy(callback.state_dict())
    other = EarlyLearning()
    other.load_state_dict(state)
    for key, value in other.state_dict().items():
        assert torch.equal(value, state[key]) if isinstance(value, Tensor) else value == state[key], key


def test_a_checkpoint_of_another_number_of_categories_is_refused() -> None:
    callback = EarlyLearning()
    state = callback.state_dict() | {"ended_at": torch.full((5,), -1)}
    callback.num_classes = NUM_CLASSES
    with pytest.raises(ValueError, match="5 categories and the module 3"):
        callback.load_state_dict(state)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("r", 1.5),
        ("horizon", 1),
        ("interval", 0),
        ("min_jump", 0.0),
        ("reference", "first"),
        ("draw_every_n_epochs", 0),
    ],
)
def test_bad_arguments_are_named(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=key):
        EarlyLearning(**{key: value})


def test_what_cannot_be_watched_is_refused(tmp_path: Path) -> None:
    class WithoutLogits(Scripted):
        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
            return {"loss": self.weight.square()}

    class OtherLogits(Scripted):
        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
            return {"loss": self.weight.square(), "logits": torch.zeros(16, NUM_CLASSES + 1)}

    class Unnamed(Scripted):
        def __init__(self) -> None:
            super().__init__()
            del self.num_classes

    with pytest.raises(ValueError, match=r"'logits'.*\['loss'\]"):
        trainer_in(tmp_path, EarlyLearning()).fit(WithoutLogits())
    with pytest.raises(ValueError, match=r"\[16, 4\] do not match labels \[16\] of 3 classes"):
        trainer_in(tmp_path, EarlyLearning()).fit(OtherLogits())
    with pytest.raises(TypeError, match="num_classes"):
        trainer_in(tmp_path, EarlyLearning()).fit(Unnamed())
    with pytest.raises(ValueError, match=r"background must be a category in 0 \.\.\. 2, got 3"):
        trainer_in(tmp_path, EarlyLearning(background=3)).fit(Scripted())
    with pytest.raises(ValueError, match="horizon"):
        trainer_in(tmp_path, EarlyLearning(), max_epochs=-1).fit(Scripted())
