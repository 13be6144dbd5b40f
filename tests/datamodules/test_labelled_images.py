import os
import types
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from callbacks.labels.memorization import Memorization
from callbacks.labels.report import LabelReport
from datamodules.classification.cached_features import CachedFeatures
from datamodules.classification.cifar import CIFAR10
from datamodules.classification.clothing1m import Clothing1M
from datamodules.classification.digits import Digits
from datamodules.classification.foreign_images import ForeignImages
from datamodules.classification.image_folder import ImageFolder
from datamodules.classification.image_sets import ImageSet, ImagesInMemory
from datamodules.classification.imagenet import ImageNet
from datamodules.classification.labelled_images import LabelledImages
from datamodules.classification.labelled_set import stratified_split
from datamodules.classification.mnist import MNIST
from datamodules.classification.ood_images import OtherDigits
from datamodules.classification.webvision import WebVision
from datamodules.corruptions.label_noise import FromCSV, InstanceDependent, Symmetric
from datamodules.loading.augmentation import Augmentation, crop_and_flip, sample_uniform
from datamodules.loading.seeded_batches import free_cores
from experiments.run_directory import MetricsTable
from tests.datamodules.loaded import loaded

NUM_CLASSES = 4


class Patterns(ImageSet):
    """Random images of 6 x 6 pixels, ten of each of four classes in mixed order for training, and seven for testing."""

    num_classes = NUM_CLASSES
    image_shape = (2, 6, 6)

    def __init__(self, brightest: int = 255, own_validation: bool = False) -> None:
        self.brightest = brightest
        self.own_validation = own_validation

    def _read(self, label: np.ndarray) -> ImagesInMemory:
        random = np.random.default_rng(len(label))
        image = random.integers(self.brightest + 1, size=(len(label), *self.image_shape), dtype=np.uint8)
        return ImagesInMemory(torch.from_numpy(image), torch.from_numpy(random.permutation(label)), self.brightest)

    def training(self) -> ImagesInMemory:
        return self._read(np.repeat(np.arange(NUM_CLASSES), 10))

    def validation(self) -> ImagesInMemory | None:
        return self._read(np.arange(NUM_CLASSES)) if self.own_validation else None

    def test(self) -> ImagesInMemory:
        return self._read(np.arange(7) % NUM_CLASSES)


def patterns(**options: Any) -> LabelledImages:
    return loaded(Patterns, **{"batch_size": 8, **options})


def ready(data: LabelledImages, stage: str = "fit") -> LabelledImages:
    data.setup(stage)
    return data


def labels(data: LabelledImages) -> Tensor:
    assert data.train_set is not None
    return data.train_set.label


class Recorder(LightningModule):
    """Keeps what it is given, and learns nothing."""

    def __init__(self, read_training_images: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.read_training_images = read_training_images
        self.trained: list[dict[str, Any]] = []
        self.evaluated: list[dict[str, Any]] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        self.trained.append(batch)
        return self.weight * batch["image"].sum()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.evaluated.append(batch)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.evaluated.append(batch)

    def on_train_epoch_end(self) -> None:
        if self.read_training_images:
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            for batch in data.training_images_dataloader():
                self.evaluated.append(self.trainer.strategy.batch_to_device(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def run(
    data: LabelledImages, directory: Path, module: Recorder | None = None, epochs: int = 1, **options: Any
) -> Recorder:
    module = module or Recorder()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=MetricsTable(directory),
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **options,
    )
    trainer.fit(module, datamodule=data)
    return module


def joined(batches: list[dict[str, Any]], key: str) -> Tensor:
    return torch.cat([batch[key] for batch in batches])


def on_process(rank: int, world_size: int, directory: Path) -> Any:
    """What a DataModule asks of its trainer before training, on one of several processes."""
    return types.SimpleNamespace(
        global_rank=rank,
        world_size=world_size,
        is_global_zero=rank == 0,
        log_dir=str(directory),
        loggers=["any"],
        current_epoch=0,
        num_devices=world_size,
        strategy=types.SimpleNamespace(root_device=torch.device("cpu")),
    )


# split


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


def test_a_split_is_drawn_by_its_seed_alone() -> None:
    label = torch.arange(40) % 4
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 (the global generator must not matter)
    first = stratified_split(label, 0.5, seed=1)[1].tolist()
    assert stratified_split(label, 0.5, seed=1)[1].tolist() == first
    assert stratified_split(label, 0.5, seed=2)[1].tolist() != first


# labels


def test_true_labels_travel_beside_the_given_ones_where_noise_is_a_corruption(tmp_path: Path) -> None:
    noisy = run(patterns(label_noise=Symmetric(0.5), validation_fraction=0.2, seed=1), tmp_path)
    for batches in (noisy.trained, noisy.evaluated):
        label, clean = joined(batches, "label"), joined(batches, "clean_label")
        assert 0 < (label != clean).sum() < len(label)
        assert label.dtype == clean.dtype == torch.int64
    clean_run = run(patterns(validation_fraction=0.2), tmp_path)
    assert all("clean_label" not in batch for batch in [*clean_run.trained, *clean_run.evaluated])


def test_the_true_labels_are_those_of_the_data() -> None:
    data = ready(patterns(label_noise=Symmetric(0.5), validation_fraction=0.2, seed=1))
    assert data.train_set is not None
    assert data.validation_set is not None
    truth = data.images.training().label
    for part in (data.train_set, data.validation_set):
        assert part.clean_label is not None
        assert torch.equal(part.clean_label, truth[part.row])
    assert torch.equal(data.train_set.source.label, truth)


def test_training_and_validation_labels_are_one_draw_of_the_noise() -> None:
    data = ready(patterns(label_noise=Symmetric(0.5), validation_fraction=0.2, seed=1))
    assert data.train_set is not None
    assert data.validation_set is not None
    whole = Symmetric(0.5, seed=1).apply(data.images.training().label, NUM_CLASSES)
    assert torch.equal(data.train_set.label, whole[data.train_set.row])
    assert torch.equal(data.validation_set.label, whole[data.validation_set.row])


def test_noise_takes_the_seed_of_the_data_unless_it_has_its_own() -> None:
    """Also where several data sets are given the same object."""
    own, linked = Symmetric(0.5, seed=7), Symmetric(0.5)
    for noise, seed, drawn in ((own, 1, 7), (linked, 1, 1), (linked, 2, 2)):
        data = ready(patterns(label_noise=noise, seed=seed))
        truth = data.images.training().label
        assert torch.equal(labels(data), Symmetric(0.5, seed=drawn).apply(truth, NUM_CLASSES))


def test_noise_that_depends_on_the_image_sees_it_as_a_network_does(tmp_path: Path) -> None:
    """Whatever the stored value that stands for 1, also behind features."""
    source = Digits().training()
    assert source.brightest == 16
    expected = InstanceDependent(0.4, seed=0).apply(source.label, 10, source.image.float() / 16)
    features = CachedFeatures(Digits(), nn.Flatten(), 64, cache_dir=str(tmp_path))
    for images in (Digits(), features):
        data = LabelledImages(images, label_noise=InstanceDependent(0.4), seed=0)
        data.setup("fit")
        assert data.train_set is not None
        assert torch.equal(data.train_set.label, expected)


def test_labels_are_the_same_on_every_process_whatever_its_generators(tmp_path: Path) -> None:
    drawn = []
    for rank in range(2):
        torch.manual_seed(rank)
        np.random.seed(rank)  # noqa: NPY002 (the global generator must not matter)
        data = patterns(label_noise=Symmetric(0.5), validation_fraction=0.2, seed=1)
        data.trainer = on_process(rank, 2, tmp_path / str(rank))
        drawn.append(labels(ready(data)))
    assert torch.equal(*drawn)
    assert [(tmp_path / str(rank) / "labels.csv").exists() for rank in range(2)] == [True, False]


def test_labels_that_were_written_give_another_run_the_same(tmp_path: Path) -> None:
    """And the same split of them, as the table holds the whole set in its own order."""
    first = patterns(label_noise=Symmetric(0.5), validation_fraction=0.2, seed=1)
    run(first, tmp_path)
    second = ready(patterns(label_noise=FromCSV(str(tmp_path / "labels.csv")), validation_fraction=0.2, seed=1))
    assert first.validation_set is not None
    assert second.validation_set is not None
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
    """Where the user has edited the table in place, or the set has changed; whoever reads the training set."""
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
    with pytest.raises(ValueError, match=rf"{tmp_path}/labels.csv and those of {table} differ in split at"):
        resumed(seed=1).setup("fit")
    label[[7, 30]] = (label[[7, 30]] + 1) % NUM_CLASSES
    message = (
        rf"{tmp_path}/labels.csv and those of {table} differ in label at 2 of 40 samples, first at index 7, which has "
        rf"{(label[7] - 1) % NUM_CLASSES} there and {label[7]} now: a run keeps the labels it began with"
    )
    with pytest.raises(ValueError, match=message):
        resumed().setup("fit")
    with pytest.raises(ValueError, match=message):
        resumed().training_images_dataloader()  # as callbacks do in a test
    longer = (tmp_path / "labels.csv").read_text() + "40,0,training\n"
    assert (tmp_path / "labels.csv").read_bytes() == written
    (tmp_path / "labels.csv").write_text(longer)
    with pytest.raises(ValueError, match=rf"labels.csv holds 41 labels, and those of {table} are 40"):
        resumed().setup("fit")


class FirstClass(LightningModule):
    """Proposes class 0 for every image."""

    num_classes = 5

    def forward(self, image: Tensor) -> Tensor:
        return nn.functional.one_hot(torch.zeros(len(image), dtype=torch.int64), 5).float()

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None: ...


def measured(data: LabelledImages, directory: Path) -> dict[str, float]:
    """What is measured of the labels, and written to the directory."""
    trainer = Trainer(
        accelerator="cpu", logger=MetricsTable(directory), callbacks=[LabelReport(num_images=1), Memorization()],
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    return dict(trainer.test(FirstClass(), datamodule=data, verbose=False)[0])


class NamedImages(ImagesInMemory):
    @property
    def names(self) -> list[str]:
        return [f"{row}.png" for row in range(len(self.label))]


class Files(Patterns):
    """The same images with names."""

    def training(self) -> ImagesInMemory:
        source = super().training()
        return NamedImages(source.image, source.label)


def test_labels_that_a_user_has_verified_score_the_others_and_nothing_counts_that_nobody_has(tmp_path: Path) -> None:
    """Of 40 given labels 0, which the report never suspects, or 1, which it always does, eight are verified."""
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
        assert again.train_set is not None
        assert data.train_set is not None
        assert torch.equal(again.train_set.label, data.train_set.label)
        assert torch.equal(again.train_set.clean_label, data.train_set.clean_label)


def web_digits(**options: Any) -> LabelledImages:
    return LabelledImages(ForeignImages(Digits(num_classes=5), OtherDigits([5, 6, 7, 8, 9]), 0.4), 64, **options)


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
        assert first.train_set is not None
        assert again.train_set is not None
        assert again.train_set.label.tolist() == (labels(first) if expected is None else expected).tolist()
        assert torch.equal(again.train_set.clean_label, first.train_set.clean_label)
        assert again.train_set.clean_label.min() == -1
    with pytest.raises(ValueError, match="the two sets are not the same or not in the same order"):
        web_digits(label_noise=proposals, seed=1).setup("fit")  # replaces other images


def test_clean_labels_are_not_written(tmp_path: Path) -> None:
    run(patterns(), tmp_path)
    assert not (tmp_path / "labels.csv").exists()


def test_validation_images_of_their_own_keep_their_labels() -> None:
    data = ready(patterns(label_noise=Symmetric(0.9), own_validation=True))
    assert data.validation_set is not None
    assert data.num_train_samples == 40
    assert sorted(data.validation_set.label.tolist()) == list(range(NUM_CLASSES))
    assert data.validation_set.clean_label is None
    held_out = ready(patterns(validation_fraction=0.5, own_validation=True)).validation_set
    assert held_out is not None
    assert len(held_out) == 20


# corrections


@pytest.mark.parametrize("num_workers", [0, 1])
def test_corrections_reach_the_batches_and_the_checkpoint(num_workers: int) -> None:
    data = ready(patterns(num_workers=num_workers, label_noise=Symmetric(0.5), seed=3))
    loader = data.train_dataloader()
    sampler: Any = loader.sampler
    before = torch.empty(40, dtype=torch.int64)
    for batch in loader:
        before[batch["index"]] = batch["label"]
    assert torch.equal(before, labels(data))
    changed = torch.tensor([3, 11, 39])
    data.correct_labels(changed, (before[changed] + 1) % NUM_CLASSES)
    sampler.set_epoch(1)  # the workers live on
    after, clean = torch.empty_like(before), torch.empty_like(before)
    for batch in loader:
        after[batch["index"]], clean[batch["index"]] = batch["label"], batch["clean_label"]
    assert (before != after).nonzero().flatten().tolist() == changed.tolist()
    assert data.train_set is not None
    assert data.train_set.clean_label is not None
    assert torch.equal(clean, data.train_set.clean_label)


class Corrector(Recorder):
    """Gives every training image label 0 after the first epoch."""

    def on_train_epoch_end(self) -> None:
        if self.current_epoch == 0:
            self.trainer.datamodule.correct_labels(torch.arange(40), torch.zeros(40, dtype=torch.int64))  # type: ignore[attr-defined]


@pytest.mark.parametrize("set_up_first", [True, False])
def test_corrections_are_restored_before_or_after_the_data_are_read(tmp_path: Path, set_up_first: bool) -> None:
    data = patterns(seed=3)
    module = run(data, tmp_path, Corrector(), epochs=2)
    assert joined(module.trained[:5], "label").sum() > 0
    assert joined(module.trained[5:], "label").sum() == 0
    state = data.state_dict()
    restored = patterns(seed=3)
    if set_up_first:
        restored.setup("fit")
    restored.load_state_dict(state)
    assert labels(ready(restored)).sum() == 0
    labels(data).fill_(1)
    assert state["label"].sum() == 0  # the checkpoint keeps a copy


@pytest.mark.parametrize("second_view", [False, True])
def test_corrected_batches_carry_the_labels_that_were_given(second_view: bool) -> None:
    data = ready(patterns(label_noise=Symmetric(0.5), second_view=second_view, seed=3))
    given = labels(data).clone()
    assert all("original_label" not in batch for batch in data.train_dataloader())
    data.correct_labels(torch.tensor([], dtype=torch.int64), torch.tensor([], dtype=torch.int64))
    assert all("original_label" not in batch for batch in data.train_dataloader())
    data.correct_labels(torch.tensor([3]), (given[[3]] + 1) % NUM_CLASSES)
    restored = patterns(label_noise=Symmetric(0.5), second_view=second_view, seed=3)
    restored.load_state_dict({"epoch": 0, "batches": 0, "label": labels(data).clone()})
    for each in (data, ready(restored)):
        for loader in (each.train_dataloader(), each.training_images_dataloader()):
            batches = list(loader)
            index = joined(batches, "index")
            assert torch.equal(joined(batches, "original_label"), given[index])
            assert index[joined(batches, "label") != given[index]].tolist() == [3]
    with pytest.raises(ValueError, match=r"label must be in 0...3, got 0...4"):
        data.correct_labels(torch.tensor([0, 1]), torch.tensor([0, 4]))


class SharedCorrector(Recorder):
    """Each process corrects samples of its own after the first epoch, and keeps what it trains on after that."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory

    def on_train_epoch_end(self) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if self.current_epoch == 0:
            self.trained.clear()
            index = torch.arange(7) if self.global_rank == 0 else torch.tensor([20, 30])
            for share in (index, index[: self.global_rank]):  # the first process has none in the second call
                data.correct_labels(share, torch.full_like(share, 2 + self.global_rank))

    def on_train_end(self) -> None:
        kept = {key: joined(self.trained, key) for key in ("index", "label", "original_label")}
        torch.save(kept, self.directory / f"trained_{self.global_rank}.pt")


def test_two_processes_exchange_their_corrections(tmp_path: Path) -> None:
    data = patterns(label_noise=Symmetric(0.5), seed=3)
    given = labels(ready(patterns(label_noise=Symmetric(0.5), seed=3)))
    expected = given.clone()
    expected[:7], expected[[20, 30]] = 2, 3
    run(data, tmp_path, SharedCorrector(tmp_path), epochs=2, devices=2, strategy="ddp_fork")
    trained = [torch.load(tmp_path / f"trained_{rank}.pt") for rank in range(2)]
    assert sorted(joined(trained, "index").tolist()) == list(range(40))
    assert all((part["label"] != part["original_label"]).any() for part in trained)
    for part in trained:
        assert torch.equal(part["label"], expected[part["index"]])
        assert torch.equal(part["original_label"], given[part["index"]])


def test_corrections_do_not_change_the_source_or_the_true_labels() -> None:
    data = ready(patterns(label_noise=Symmetric(0.5), seed=3))
    truth = data.images.training().label
    data.correct_labels(torch.arange(40), torch.zeros(40, dtype=torch.int64))
    assert data.train_set is not None
    assert data.train_set.clean_label is not None
    assert torch.equal(data.train_set.clean_label, truth)
    assert torch.equal(data.train_set.source.label, truth)


def test_an_interrupted_epoch_continues_at_its_batch() -> None:
    whole = [batch["index"].tolist() for batch in ready(patterns(seed=2)).train_dataloader()]
    resumed = ready(patterns(seed=2))
    resumed.load_state_dict({"epoch": 0, "batches": 3})
    assert [batch["index"].tolist() for batch in resumed.train_dataloader()] == whole[3:]


def test_state_after_an_epoch_begins_the_next_one(tmp_path: Path) -> None:
    data = patterns(seed=2)
    run(data, tmp_path, epochs=2)
    assert data.state_dict() == {"epoch": 2, "batches": 0}


# images


@pytest.mark.parametrize("brightest", [16, 255])
@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_images_are_in_the_unit_interval_in_the_modules_precision(
    tmp_path: Path, brightest: int, precision: Any
) -> None:
    data = patterns(brightest=brightest)
    module = run(data, tmp_path, precision=precision)
    dtype = torch.float64 if precision == "64-true" else torch.float32
    image, index = joined(module.trained, "image"), joined(module.trained, "index")
    assert image.dtype == dtype
    assert torch.equal(image, data.images.training().image[index].to(dtype) / brightest)
    assert image.max() == 1


def test_training_images_are_cropped_and_mirrored_by_seed_visit_and_sample(tmp_path: Path) -> None:
    data = patterns(augmentation=Augmentation(2, True), validation_fraction=0.2, passes_per_epoch=2, seed=5)
    module = run(data, tmp_path, epochs=2)
    batches_of_a_pass = len(module.trained) // 4
    assert data.train_set is not None
    source = data.images.training().image[data.train_set.row]
    for number, batch in enumerate(module.trained):
        uniform = sample_uniform(5, number // batches_of_a_pass, batch["index"], count=3)
        expected = crop_and_flip(source[batch["index"]], uniform, padding=2)
        assert torch.equal(batch["image"], expected.float() / 255)
        assert sorted(batch) == ["global_size", "image", "index", "label"]
    assert data.validation_set is not None
    plain = data.images.training().image[data.validation_set.row].float() / 255
    assert torch.equal(joined(module.evaluated, "image"), plain.repeat(2, 1, 1, 1))


def test_training_images_that_are_read_to_judge_labels_are_whole_and_in_order(tmp_path: Path) -> None:
    """Also while training goes on."""
    data = patterns(augmentation=Augmentation(2, True), seed=5)
    module = run(data, tmp_path, Recorder(read_training_images=True))
    assert torch.equal(joined(module.evaluated, "image"), data.images.training().image.float() / 255)
    assert joined(module.evaluated, "index").tolist() == list(range(40))


def test_the_test_set_is_dealt_out_without_duplicates(tmp_path: Path) -> None:
    index, label = [], []
    for rank in range(3):
        data = ready(patterns(batch_size=5), "test")
        data.trainer = on_process(rank, 3, tmp_path)
        batches = list(data.test_dataloader())
        assert [batch["global_size"] for batch in batches] == [7]  # five, and two that three processes cannot share
        index += joined(batches, "index").tolist()
        label += joined(batches, "label").tolist()
    assert sorted(index) == list(range(7))
    truth = Patterns().test().label
    assert label == truth[index].tolist()


def test_predictions_are_made_on_the_test_images() -> None:
    data = ready(patterns(batch_size=5), "predict")
    assert joined(list(data.predict_dataloader()), "index").tolist() == list(range(7))


# arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"evaluation_batch_size": 0}, "evaluation_batch_size must be at least 1, got 0"),
        ({"passes_per_epoch": 0}, "passes_per_epoch must be at least 1, got 0"),
        ({"num_workers": -1}, "num_workers must be at least 0, got -1"),
        ({"prefetch_factor": 0}, "prefetch_factor must be at least 1, got 0"),
        ({"validation_fraction": 1.0}, r"validation_fraction must be in \[0, 1\), got 1.0"),
        ({"validation_fraction": -0.1}, r"validation_fraction must be in \[0, 1\), got -0.1"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        patterns(**options)


def test_a_validation_fraction_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"validation_fraction 0\.97 leaves no training image of 40"):
        patterns(validation_fraction=0.97).setup("fit")


class Mislabelled(Patterns):
    num_classes = 3


class Empty(Patterns):
    def training(self) -> ImagesInMemory:
        return self._read(np.arange(0))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (Mislabelled(), r"labels of the training set lie in 0\.\.\.3, and num_classes 3 allows 0\.\.\.2"),
        (Empty(), "the training set is empty"),
    ],
)
def test_labels_that_do_not_fit_are_refused(images: Patterns, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelledImages(images).setup("fit")


def test_batches_larger_than_the_set_and_sets_smaller_than_the_processes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_size is 41, more than the 40 samples of the training set"):
        ready(patterns(batch_size=41)).train_dataloader()
    data = ready(patterns(batch_size=100))
    data.trainer = on_process(0, 50, tmp_path)
    with pytest.raises(ValueError, match="40 samples cannot be shared by 50 processes: use at most 40"):
        data.train_dataloader()
    data = ready(patterns(batch_size=8, evaluation_batch_size=2), "test")
    data.trainer = on_process(0, 4, tmp_path)
    with pytest.raises(ValueError, match="evaluation_batch_size is 2 over all processes, fewer than the 4 processes"):
        data.test_dataloader()


def test_the_number_of_samples_is_known_once_the_data_are_read() -> None:
    data = patterns(validation_fraction=0.1)
    with pytest.raises(RuntimeError, match="num_train_samples is known after setup"):
        _ = data.num_train_samples
    assert ready(data).num_train_samples == 36


def test_processes_share_the_machines_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    assert [free_cores(world_size) for world_size in (1, 2, 4, 16)] == [8, 6, 3, 1]
    monkeypatch.setattr(ImagesInMemory, "in_memory", False)
    data = ready(patterns(prefetch_factor=3))
    data.trainer = on_process(0, 4, tmp_path)
    loader = data.train_dataloader()
    assert (loader.num_workers, loader.prefetch_factor, loader.persistent_workers) == (3, 3, True)


DATA_SETS = [CachedFeatures, CIFAR10, Clothing1M, Digits, ImageFolder, ImageNet, LabelledImages, MNIST, WebVision]


@pytest.mark.parametrize("kind", DATA_SETS, ids=lambda kind: kind.__name__)
def test_help_documents_every_argument(kind: type) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, "data")
    documented = {action.dest: action.help for action in parser._actions if action.dest.startswith("data.")}
    undocumented = [name for name, text in documented.items() if not text or not str(text).strip()]
    assert documented
    assert undocumented == []
