from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.augmentation.crop_and_flip import Augmentation
from datamodules.classification.digits import Digits
from datamodules.loading import Loading
from datamodules.prompts.buckets import Buckets
from datamodules.prompts.captioned_images import CaptionedImages
from datamodules.prompts.captioned_set import CaptionedClasses
from datamodules.prompts.class_images import ClassImages
from datamodules.prompts.folder_sets import CaptionedFolder
from tests.datamodules.image_folders import photograph, save


def digits(**options: Any) -> CaptionedImages:
    data = CaptionedImages(CaptionedClasses(Digits(), "digit {}"), **options)
    data.setup("fit")
    return data


def test_captions_are_the_classes_names_and_images_are_held_out_once() -> None:
    data = digits(batch_size=100, validation_fraction=0.1)
    train, held_out = data.train_set, data.validation_set
    assert sorted([*train.row.tolist(), *held_out.row.tolist()]) == list(range(1300))
    assert len(held_out) == 130
    batch = next(iter(data.train_dataloader()))
    labels = Digits().training().label[train.row[batch["index"]]]
    assert batch["caption"] == [f"digit {label}" for label in labels.tolist()]
    assert batch["image"].shape == (100, 1, 8, 8)
    assert "epoch" not in next(iter(data.val_dataloader()))
    data.setup("test")
    assert data.test_set is held_out


def test_arrays_take_the_place_of_images() -> None:
    data = digits(batch_size=7)
    train = data.train_set
    array = np.arange(5, dtype=np.float32)[:, None]
    row = np.arange(1300) % 5
    train.give_instead({"moments": (array, row)})
    batch = next(iter(data.train_dataloader()))
    assert set(batch) == {"index", "global_batch_size", "caption", "moments"}
    assert torch.equal(batch["moments"][:, 0], (batch["index"] % 5).float())
    whole = next(iter(data.training_images_dataloader()))
    assert whole["index"].tolist() == list(range(7))
    assert "image" in whole


def test_crops_of_files_move_with_the_visit_and_validation_sees_the_centre(tmp_path: Path) -> None:
    for number in range(4):
        save(tmp_path / f"{number}.png", photograph(40, 30, number))
    data = CaptionedImages(
        CaptionedFolder(str(tmp_path), image_size=16, resize=24),
        batch_size=2,
        validation_fraction=0.5,
        augmentation=Augmentation(flip=True),
        loading=Loading(num_workers=0),
    )
    data.setup("fit")
    loader = data.train_dataloader()
    first, again = (next(iter(loader)) for _ in range(2))
    assert torch.equal(first["image"], again["image"])
    loader.sampler.set_epoch(1)  # type: ignore[attr-defined]
    later = next(iter(loader))
    assert sorted(later["index"].tolist()) == [0, 1]
    order = first["index"].argsort(), later["index"].argsort()
    assert not torch.equal(first["image"][order[0]], later["image"][order[1]])
    assert "caption" not in first
    assert data.augment(first, 0)["image"].shape == (2, 3, 16, 16)


def of_several_sizes(folder: Path, **options: Any) -> CaptionedImages:
    for number in range(9):
        save(folder / f"{number}.png", photograph(*((48, 30), (30, 48), (30, 30))[number % 3], number))
    images = CaptionedFolder(str(folder), image_size=24, prompt="a", buckets=Buckets(8))
    return CaptionedImages(images, batch_size=4, loading=Loading(num_workers=0, seed=2), **options)


def test_batches_have_one_size_and_show_each_image_once_in_training_and_validation(tmp_path: Path) -> None:
    data = of_several_sizes(tmp_path, validation_fraction=0.34, augmentation=Augmentation(flip=True))
    data.setup("fit")
    for loader, count in ((data.train_dataloader(), 6), (data.val_dataloader(), 3)):
        seen: list[int] = []
        for batch in loader:
            seen += batch["index"].tolist()
            height, width = batch["image"].shape[2:]
            assert (height, width) in {(24, 24), (16, 32), (32, 16)}
            assert batch["size_conditions"][:, 4:].tolist() == [[height, width]] * len(batch["index"])
            assert len({tuple(size) for size in batch["size_conditions"][:, :2].tolist()}) == 1
        assert sorted(seen) == list(range(count))


def test_a_mirrored_crop_has_the_conditions_of_the_mirrored_image(tmp_path: Path) -> None:
    save(tmp_path / "a.png", photograph(40, 20))
    data = CaptionedImages(
        CaptionedFolder(str(tmp_path), image_size=16, prompt="a"), batch_size=1, augmentation=Augmentation(flip=True),
        loading=Loading(num_workers=0, seed=0),
    )  # fmt: skip
    data.setup("fit")
    mirror = save(tmp_path / "mirror" / "a.png", photograph(40, 20).transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    resized = np.asarray(Image.open(mirror).resize((32, 16), Image.Resampling.BILINEAR))
    plain = np.asarray(photograph(40, 20).resize((32, 16), Image.Resampling.BILINEAR))
    lefts, loader = set(), data.train_dataloader()
    for epoch in range(8):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        [batch] = list(loader)
        image = batch["image"][0].permute(1, 2, 0).mul(255).round().int().numpy()
        left = int(batch["size_conditions"][0, 3])
        differences = [np.abs(each[:, left : left + 16].astype(int) - image).max() for each in (plain, resized)]
        assert min(differences) <= 4
        lefts.add((left, int(np.argmin(differences))))
    assert len({left for left, _ in lefts}) > 2
    assert {turned for _, turned in lefts} == {0, 1}


def test_buckets_that_do_not_fit_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the bucket .* has 3 training images, fewer than the 4 ranks: use at most 3"):
        of_several_sizes(tmp_path).check_ranks(4)
    of_several_sizes(tmp_path).check_ranks(3)
    with pytest.raises(ValueError, match=r"buckets\.multiple is 8, but height and width must be multiples of 16: chan"):
        of_several_sizes(tmp_path).check_sizes(16)
    with pytest.raises(ValueError, match="crop_padding does not work with buckets"):
        of_several_sizes(tmp_path, augmentation=Augmentation(crop_padding=1)).setup("fit")
    prior = CaptionedFolder(str(tmp_path), image_size=24, prompt="a", buckets=Buckets(8))
    with pytest.raises(ValueError, match=r"leave data\.prior\.buckets out"):
        of_several_sizes(tmp_path, prior=prior)
    with pytest.raises(ValueError, match=r"images of 12 x 12 .* multiples of 8: change data\.prior\.image_size"):
        of_several_sizes(tmp_path, prior=ClassImages(str(tmp_path / "class"), "a", 2, 12)).check_sizes(8)
