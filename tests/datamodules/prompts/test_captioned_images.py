from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.augmentation.crop_and_flip import Augmentation
from datamodules.classification.digits import Digits
from datamodules.prompts.captioned_images import CaptionedImages
from datamodules.prompts.captioned_set import CaptionedClasses
from datamodules.prompts.folder_sets import CaptionedFolder
from tests.datamodules.image_folders import photograph, save


def digits(**options: Any) -> CaptionedImages:
    data = CaptionedImages(CaptionedClasses(Digits(), "digit {}"), **options)
    data.setup("fit")
    return data


def test_captions_are_the_classes_names_and_images_are_held_out_once() -> None:
    data = digits(batch_size=100, validation_fraction=0.1)
    train, held_out = data.train_set, data.validation_set
    assert train is not None
    assert held_out is not None
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
    assert train is not None
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
        num_workers=0,
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
    assert data.augmented(first, 0)["image"].shape == (2, 3, 16, 16)
