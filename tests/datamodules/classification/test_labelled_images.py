import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from datamodules.augmentation.crop_and_flip import Augmentation, crop_and_flip
from datamodules.classification.cached_features import CachedFeatures
from datamodules.classification.clustered import Clustered
from datamodules.classification.digits import Digits
from datamodules.classification.image_sets import ImageSet, ImagesInMemory
from datamodules.classification.labelled_images import LabelledImages
from datamodules.classification.ood_images import OtherDigits
from datamodules.classification.selection.epoch_order import repeated_augmentation
from datamodules.classification.selection.split import Split
from datamodules.corruptions.label_noise import InstanceDependent, Symmetric
from datamodules.corruptions.label_noise.open_set import OpenSetLabelNoise
from datamodules.loading import Loading
from datamodules.loading.arguments import free_cores
from datamodules.randomness.counter import sample_uniform
from tests.datamodules.classification.patterns import NUM_CLASSES, Patterns, labels, on_process, patterns, ready
from tests.datamodules.recorder import joined, trained


def test_given_labels_are_one_draw_of_the_noise_and_the_true_ones_travel_beside_them(tmp_path: Path) -> None:
    data = patterns(label_noise=Symmetric(0.5), validation_fraction=0.2, seed=1)
    noisy = trained(data, tmp_path)
    truth = data.images.training().label
    drawn = Symmetric(0.5, seed=1).apply(truth, NUM_CLASSES)
    for part, batches in ((data.train_set, noisy.trained), (data.validation_set, noisy.evaluated)):
        row = part.row[joined(batches, "index")]
        assert torch.equal(joined(batches, "clean_label"), truth[row])
        assert torch.equal(joined(batches, "label"), drawn[row])
    clean_run = trained(patterns(validation_fraction=0.2), tmp_path)
    assert all("clean_label" not in batch for batch in [*clean_run.trained, *clean_run.evaluated])


def test_noise_takes_the_seed_of_the_data_unless_it_has_its_own() -> None:
    """Each DataModule passes its own seed, even if several DataModules share the same noise object."""
    own, linked = Symmetric(0.5, seed=7), Symmetric(0.5)
    for noise, seed, drawn in ((own, 1, 7), (linked, 1, 1), (linked, 2, 2)):
        data = ready(patterns(label_noise=noise, seed=seed))
        truth = data.images.training().label
        assert torch.equal(labels(data), Symmetric(0.5, seed=drawn).apply(truth, NUM_CLASSES))


def test_noise_that_depends_on_the_image_sees_it_as_a_network_does(tmp_path: Path) -> None:
    """The noise receives the image scaled to [0, 1], whatever the stored range, also if features are cached."""
    source = Digits().training()
    assert source.data_range == 16
    expected = InstanceDependent(0.4, seed=0).apply(source.label, 10, source.image.float() / 16)
    features = CachedFeatures(Digits(), nn.Flatten(), 64, cache_dir=str(tmp_path))
    for images in (Digits(), features):
        data = LabelledImages(images, label_noise=InstanceDependent(0.4), loading=Loading(seed=0))
        data.setup("fit")
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


def test_validation_images_of_their_own_keep_their_labels() -> None:
    data = patterns(label_noise=Symmetric(0.9), own_validation=True)
    with pytest.raises(RuntimeError, match="num_train_samples is known only after setup"):
        _ = data.num_train_samples
    assert ready(data).num_train_samples == 40
    assert sorted(data.validation_set.label.tolist()) == list(range(NUM_CLASSES))
    assert data.validation_set.clean_label is None
    held_out = ready(patterns(validation_fraction=0.5, own_validation=True)).validation_set
    assert len(held_out) == 20


@pytest.mark.parametrize("data_range", [16, 255])
@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_images_are_in_the_unit_interval_in_the_modules_precision(
    tmp_path: Path, data_range: int, precision: Any
) -> None:
    data = patterns(data_range=data_range)
    module = trained(data, tmp_path, precision=precision)
    dtype = torch.float64 if precision == "64-true" else torch.float32
    image, index = joined(module.trained, "image"), joined(module.trained, "index")
    assert image.dtype == dtype
    assert torch.equal(image, data.images.training().image[index].to(dtype) / data_range)
    assert image.max() == 1


def test_training_images_are_cropped_and_mirrored_by_seed_visit_and_sample(tmp_path: Path) -> None:
    data = patterns(augmentation=Augmentation(2, True), validation_fraction=0.2, passes_per_epoch=2, seed=5)
    module = trained(data, tmp_path, epochs=2)
    batches_of_a_pass = len(module.trained) // 4
    source = data.images.training().image[data.train_set.row]
    for number, batch in enumerate(module.trained):
        uniform = sample_uniform(5, number // batches_of_a_pass, batch["index"], count=3)
        expected = crop_and_flip(source[batch["index"]], uniform, padding=2)
        assert torch.equal(batch["image"], expected.float() / 255)
        assert sorted(batch) == ["global_batch_size", "image", "index", "label"]
    plain = data.images.training().image[data.validation_set.row].float() / 255
    assert torch.equal(joined(module.evaluated, "image"), plain.repeat(2, 1, 1, 1))


def test_each_image_of_an_epoch_is_augmented_three_times_in_a_batch_on_any_ranks_and_after_a_resume(
    tmp_path: Path,
) -> None:
    def repeated() -> LabelledImages:
        return patterns(augmentation=Augmentation(2, True), batch_size=12, repeats=3, seed=5)

    batches = trained(repeated(), tmp_path).trained
    requested = torch.from_numpy(repeated_augmentation(np.random.default_rng([5, 0, 0]), 40, 12, 3))
    source = Patterns().training()
    index, images = joined(batches, "index"), joined(batches, "image")
    assert torch.equal(index, requested % 40)
    assert torch.equal(joined(batches, "label"), source.label[index])
    uniform = sample_uniform(5, 0, requested, count=3)  # a different one for each of an image's three augmentations
    assert torch.equal(images, crop_and_flip(source.image[index], uniform, padding=2).float() / 255)
    for batch in batches[:3]:
        assert torch.equal(batch["index"].unique(return_counts=True)[1], torch.full((4,), 3))
        assert not torch.equal(batch["index"][::3], batch["index"][1::3])  # copies are not adjacent
    assert len(index.unique()) == 14  # 40 / 3
    of_ranks = []
    for rank in range(2):
        data = ready(repeated())
        data.trainer = on_process(rank, 2, tmp_path)
        data.load_state_dict({"epoch": 0, "batches": 1})
        of_ranks.append([data.augment(batch, batch["epoch"]) for batch in data.train_dataloader()])
    for whole, parts in zip(batches[1:], zip(*of_ranks, strict=True), strict=True):
        for rank, part in enumerate(parts):
            assert torch.equal(whole["index"][rank::2], part["index"])
            assert torch.equal(whole["image"][rank::2], part["image"].float() / 255)
    with pytest.raises(ValueError, match="repeats must be 1 if batches_per_epoch is set, got 3"):
        patterns(repeats=3, batches_per_epoch=2)


def test_training_images_that_are_read_to_judge_labels_are_whole_and_in_order(tmp_path: Path) -> None:
    """This also holds if they are read while training is running."""
    data, read = patterns(augmentation=Augmentation(2, True), seed=5), list[dict[str, Any]]()

    def keep(module: Any, data: Any) -> None:
        read.extend(module.trainer.strategy.batch_to_device(batch) for batch in data.training_images_dataloader())

    trained(data, tmp_path, keep)
    assert torch.equal(joined(read, "image"), data.images.training().image.float() / 255)
    assert joined(read, "index").tolist() == list(range(40))


def test_processes_share_the_machines_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "lightning.pytorch")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    assert [free_cores(world_size) for world_size in (1, 2, 4, 16)] == [8, 6, 3, 1]
    monkeypatch.setattr(ImagesInMemory, "in_memory", False)
    data = ready(patterns(prefetch_factor=3))
    data.trainer = on_process(0, 4, tmp_path)
    loader = data.train_dataloader()
    assert (loader.num_workers, loader.prefetch_factor, loader.persistent_workers) == (3, 3, True)
    data.train_dataloader()
    assert caplog.text.count("data.loading.num_workers is not set: 3 DataLoader workers for each rank") == 1


def everything_drawn(images: ImageSet, seed: int) -> dict[str, Any]:
    """Return everything that is random in a training epoch: split, labels, pixels, order and augmentation."""
    data = LabelledImages(
        images,
        64,
        Symmetric(0.4),
        split=Split(validation_fraction=0.2),
        augmentation=Augmentation(1, True),
        loading=Loading(seed=seed),
    )
    data.setup("fit")
    batches = [*data.train_dataloader()]
    kept = {key: joined(batches, key) for key in ("index", "label", "image")}
    plain = joined([*data.training_images_dataloader()], "image")
    return {"split": data.train_set.row, "pixels": plain, "views": kept["image"][kept["index"].argsort()], **kept}


@pytest.mark.parametrize(
    ("images", "drawn"),
    [
        (Digits(), {"split", "index", "label", "views"}),
        (Clustered(90, 60), {"split", "index", "label", "views", "pixels"}),
        (OpenSetLabelNoise(Digits(), OtherDigits([1]), 0.1), {"split", "index", "label", "views", "pixels"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_all_that_is_drawn_follows_the_seed(images: ImageSet, drawn: set[str]) -> None:
    """Equal seeds give equal draws, and different seeds different ones, whatever the global generators' state."""
    one, again, other = (everything_drawn(images, seed) for seed in (1, 1, 2))
    for key in drawn:
        assert torch.equal(one[key], again[key]), key
        assert not torch.equal(one[key], other[key]), key
