from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from datamodules.augmentation.masks import FILL, MaskAugmentation
from datamodules.corruptions.mask_noise import ErosionDilation
from datamodules.files.image_files import UnreadableImage
from datamodules.segmentation.labelled_masks import LabelledMasks
from datamodules.segmentation.mask_files import MaskFiles
from datamodules.segmentation.voc import VOCSegmentation, listed_names
from tests.datamodules.recorder import Recorder
from tests.grouped import grouped
from tests.trainers import quiet

SIZES = {"a": (50, 60), "b": (64, 40), "c": (30, 30), "d": (44, 70)}


def mask_of(name: str, shift: int = 0) -> np.ndarray:
    """Draw two rectangles, and a line of ignored pixels."""
    height, width = SIZES[name]
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[4 + shift : height // 2, 6 : width - 8] = 7
    mask[height // 2 : height - 5, width // 3 : width - 4] = 15
    mask[height // 2] = 255
    return mask


def save_mask(folder: Path, name: str, mask: np.ndarray) -> None:
    """Save a mask with a palette, as in VOC."""
    folder.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask, mode="P")
    image.putpalette([value for index in range(256) for value in (index, 255 - index, 7)])
    image.save(folder / f"{name}.png")


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """Write images a, b, c for training and d for validation; brightness encodes the category."""
    root = tmp_path / "VOCdevkit" / "VOC2012"
    lists = root / "ImageSets" / "Segmentation"
    for folder in (root / "JPEGImages", lists):
        folder.mkdir(parents=True)
    for name in SIZES:
        mask = mask_of(name)
        grey = np.where(mask == 255, 0, 10 * mask + 50)
        colours = np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
        Image.fromarray(colours).save(root / "JPEGImages" / f"{name}.jpg", quality=100)
        save_mask(root / "SegmentationClass", name, mask)
    (lists / "train.txt").write_text("a\nb\nc\n")
    (lists / "val.txt").write_text("d\n")
    return tmp_path


@pytest.fixture
def pseudo(voc: Path) -> Path:
    for name in ("a", "b", "c"):
        save_mask(voc / "pseudo", name, mask_of(name, shift=6))
    return voc / "pseudo"


def data_of(voc: Path, pseudo: Path | None = None, crop_size: int = 448, colours: bool = False, **options: Any) -> Any:
    """Create the training set: cropped, mirrored and optionally with colour changes."""
    images = VOCSegmentation(str(voc), None if pseudo is None else str(pseudo), options.pop("train_list", None))
    plain = {} if colours else {"hue": 0.0, "saturation": 0.0, "value": 0.0}
    augmentation = MaskAugmentation(crop_size, **plain)
    return LabelledMasks(images, **grouped(LabelledMasks, {"num_workers": 0} | options), augmentation=augmentation)


def run(data: LabelledMasks, epochs: int = 1) -> Recorder:
    module = Recorder()
    quiet(max_epochs=epochs).fit(module, datamodule=data)
    return module


def by_index(batches: list[dict[str, Any]], key: str) -> dict[int, Tensor]:
    return {int(i): row for batch in batches for i, row in zip(batch["index"], batch[key], strict=True)}


def test_images_and_masks_are_cut_alike(voc: Path) -> None:
    """Brightness must match the category, except within a pixel of borders; pixels outside the image are ignored."""
    module = run(data_of(voc, batch_size=3, crop_size=48, seed=1), epochs=8)
    assert len(module.trained) == 8
    around = 0
    for batch in module.trained:
        assert batch["image"].shape == (3, 3, 48, 48)
        label = batch["label"]
        assert label.shape == (3, 48, 48)
        assert torch.equal(batch["original_label"], label)
        grey = batch["image"].mean(dim=1) * 255
        agree = (grey - (10 * label + 50)).abs() < 25
        assert agree[label != 255].double().mean() > 0.85
        fill = (batch["image"] * 255 - torch.tensor(FILL)[:, None, None]).abs().amax(dim=1) < 0.01
        around += int(fill.sum())
        assert label[fill].eq(255).all()
    assert around > 0


def test_a_training_image_depends_on_seed_visit_and_index_alone(voc: Path, pseudo: Path) -> None:
    def drawn(**options: Any) -> list[dict[int, Tensor]]:
        data = data_of(voc, pseudo, 40, colours=True, **options)
        batches = run(data, epochs=2).trained
        half = len(batches) // 2
        return [by_index(batches[:half], "image"), by_index(batches[half:], "image")]

    first = drawn(batch_size=3, seed=0, num_workers=0)
    again = drawn(batch_size=2, seed=0, num_workers=2)  # the last batch, which has one sample, is dropped
    other = drawn(batch_size=3, seed=1, num_workers=0)
    for epoch in range(2):
        for index in again[epoch]:
            assert torch.equal(first[epoch][index], again[epoch][index])
        assert not any(torch.equal(first[epoch][index], other[epoch][index]) for index in range(3))
    assert not any(torch.equal(first[0][index], first[1][index]) for index in range(3))


def test_masks_that_are_given_and_true_ones_where_there_are_any(voc: Path, pseudo: Path) -> None:
    (voc / "VOCdevkit" / "VOC2012" / "SegmentationClass" / "b.png").unlink()
    save_mask(voc / "VOCdevkit" / "VOC2012" / "SegmentationClassAug", "c", mask_of("c", shift=2))
    data = data_of(voc, pseudo, batch_size=3)
    data.setup("fit")
    batches = list(data.training_images_dataloader())
    assert [len(batch["index"]) for batch in batches] == [1, 1, 1]
    truth = {"a": mask_of("a"), "b": np.full(SIZES["b"], 255), "c": mask_of("c", shift=2)}
    for batch, name in zip(batches, "abc", strict=True):
        assert batch["image"].shape == (1, 3, *SIZES[name])
        assert np.array_equal(batch["label"][0], mask_of(name, shift=6))
        assert np.array_equal(batch["original_label"][0], mask_of(name, shift=6))
        assert np.array_equal(batch["clean_label"][0], truth[name])


def test_noise_on_the_true_masks_is_drawn_by_position(voc: Path) -> None:
    data = data_of(voc, mask_noise=ErosionDilation(2, 3), seed=5)
    data.setup("fit")
    for index, (batch, name) in enumerate(zip(data.training_images_dataloader(), "abc", strict=True)):
        clean = torch.from_numpy(mask_of(name))[None]
        assert torch.equal(batch["clean_label"], clean)
        assert torch.equal(batch["label"], ErosionDilation(2, 3, seed=5).apply(clean, 21, torch.tensor([index])))


def test_images_of_a_batch_are_filled_up_to_the_largest(voc: Path) -> None:
    data = data_of(voc, evaluation_batch_size=3)
    data.setup("fit")
    [batch] = data.training_images_dataloader()
    assert batch["image"].shape == (3, 3, 64, 60)
    for position, name in enumerate("abc"):
        height, width = SIZES[name]
        assert np.array_equal(batch["label"][position, :height, :width], mask_of(name))
        assert batch["label"][position, height:].eq(255).all()
        assert batch["label"][position, :, width:].eq(255).all()
        assert batch["image"][position, :, height:].mul(255).mean() == pytest.approx(np.mean(FILL)) or height == 64


def test_validation_and_test_images_are_whole(voc: Path) -> None:
    data = data_of(voc, batch_size=2, crop_size=40)
    module = run(data)
    [batch] = module.evaluated
    assert batch["image"].shape == (1, 3, *SIZES["d"])
    assert batch["image"].max() <= 1
    assert torch.equal(batch["label"][0], torch.from_numpy(mask_of("d")).long())
    data.setup("test")
    [batch] = data.test_dataloader()
    assert torch.equal(batch["label"][0], torch.from_numpy(mask_of("d")).long())


def test_corrections_are_in_the_pixels_of_the_image(voc: Path, pseudo: Path) -> None:
    """A corrected mask gives the same batch as a file that contains this mask, for any crop."""
    data = data_of(voc, pseudo, batch_size=3, crop_size=48, seed=2, evaluation_batch_size=3)
    data.setup("fit")
    [whole] = data.training_images_dataloader()
    label = whole["label"].long()
    label[label == 7] = 15
    data.correct_labels(whole["index"], label)
    after = run(data)
    for name in "abc":
        mask = mask_of(name, shift=6)
        mask[mask == 7] = 15
        save_mask(voc / "edited", name, mask)
    edited = run(data_of(voc, voc / "edited", batch_size=3, crop_size=48, seed=2))
    original = run(data_of(voc, pseudo, batch_size=3, crop_size=48, seed=2))
    assert torch.equal(after.trained[0]["label"], edited.trained[0]["label"])
    assert torch.equal(after.trained[0]["original_label"], original.trained[0]["label"])
    assert torch.equal(after.trained[0]["image"], original.trained[0]["image"])
    assert not torch.equal(after.trained[0]["label"], after.trained[0]["original_label"])


def test_an_augmented_list_may_hold_paths(voc: Path) -> None:
    aug = voc / "trainaug.txt"
    aug.write_text("/JPEGImages/c.jpg /SegmentationClassAug/c.png\n\nd\n")
    assert listed_names(aug) == ["c", "d"]
    for name in "cd":
        save_mask(voc / "VOCdevkit" / "VOC2012" / "SegmentationClassAug", name, mask_of(name, shift=1))
    data = data_of(voc / "VOCdevkit", train_list=str(aug), batch_size=2)
    data.setup("fit")
    assert data.num_train_samples == 2
    labels = [batch["label"][0] for batch in data.training_images_dataloader()]
    assert all(np.array_equal(label, mask_of(name, shift=1)) for label, name in zip(labels, "cd", strict=True))


# mistakes


def test_missing_files_are_named(voc: Path, pseudo: Path, tmp_path: Path) -> None:
    root = voc / "VOCdevkit" / "VOC2012"
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"found no .*empty/VOCdevkit/VOC2012/JPEGImages; extract the archive"):
        VOCSegmentation(str(tmp_path / "empty")).training()
    with pytest.raises(FileNotFoundError, match=r"pseudo_label_dir .*nowhere does not exist; expected a folder"):
        VOCSegmentation(str(voc), str(voc / "nowhere")).training()
    with pytest.raises(FileNotFoundError, match=r"aug\.txt does not exist; expected a text file"):
        VOCSegmentation(str(voc), train_list=str(voc / "aug.txt")).training()
    (pseudo / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"pseudo/b\.png does not exist \(1 of 3 mask files are missing\)"):
        VOCSegmentation(str(voc), str(pseudo)).training()
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"val\.txt lists no image"):
        VOCSegmentation(str(voc)).test()


def test_damaged_files_are_named(voc: Path) -> None:
    root = voc / "VOCdevkit" / "VOC2012"
    images, masks = root / "JPEGImages", root / "SegmentationClass"

    def fetch(name: str) -> None:
        MaskFiles(images, masks, [name], 21).masks(torch.tensor([0]))

    save_mask(masks, "a", np.full(SIZES["a"], 21, dtype=np.uint8))
    with pytest.raises(UnreadableImage, match=r"a\.png has a pixel of category 21, but .* allows 0\.\.\.20"):
        fetch("a")
    Image.new("RGB", (40, 64)).save(masks / "b.png")
    with pytest.raises(UnreadableImage, match=r"b\.png is not a mask: expected one channel of 8 bits"):
        fetch("b")
    (masks / "c.png").write_bytes(b"no image")
    with pytest.raises(UnreadableImage, match=r"c\.png cannot be read as a mask"):
        MaskFiles(images, masks, ["c"], 21)
    save_mask(masks, "a", mask_of("b"))
    source = MaskFiles(images, masks, ["a"], 21)
    with pytest.raises(UnreadableImage, match=r"a\.jpg is \[50, 60\] \(height, width\), but its mask is \[64, 40\]"):
        source.whole(torch.tensor([0]), {})


def test_masks_that_are_wrong_are_not_made_wrong(voc: Path, pseudo: Path) -> None:
    with pytest.raises(ValueError, match=r"mask_noise .* leave mask_noise out"):
        data_of(voc, pseudo, mask_noise=ErosionDilation()).setup("fit")
