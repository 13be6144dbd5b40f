import io
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from scipy.stats import chisquare, kstest
from torch import Tensor, nn
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as transforms

from datamodules.classification.cached_features import CachedFeatures
from datamodules.classification.clothing1m import Clothing1M
from datamodules.classification.image_folder import ImageFolder
from datamodules.classification.image_sets import ImageFiles
from datamodules.classification.imagenet import ImageNet
from datamodules.classification.labelled_images import LabelledImages
from datamodules.classification.webvision import WebVision
from datamodules.corruptions.label_noise import FromCSV, Symmetric
from datamodules.files.image_files import (
    SUFFIXES,
    Box,
    Crop,
    ResizedCrop,
    UnreadableImage,
    box_after_resizing,
    box_of_random_area,
    files_by_class,
    image_names,
    read_crop,
)
from datamodules.loading.augmentation import sample_uniform
from experiments.run_directory import MetricsTable
from tests.datamodules.loaded import loaded

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth picture, as photographs are: reducing it in two ways gives nearly the same."""
    coarse = np.random.default_rng(seed).integers(256, size=(6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def shades(root: Path, split: str, classes: list[str], per_class: int = 4) -> None:
    """Images that tell what they are: red is the class, green the position in it."""
    for category, name in enumerate(classes):
        for position in range(per_class):
            colour = (10 * category, 10 * position, 100)
            save(root / split / name / f"{position}.png", Image.new("RGB", (40, 30), colour))


# what a crop shows


@pytest.mark.parametrize(("width", "height"), [(500, 375), (333, 500), (256, 256), (300, 1000)])
@pytest.mark.parametrize("place", [None, (0.0, 0.0), (0.3, 0.7), (0.999, 0.999)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_crop_is_what_resizing_and_then_cutting_gives(
    tmp_path: Path, width: int, height: int, place: tuple[float, float] | None, interpolation: Any
) -> None:
    """Against torchvision's two steps, whose resampling the box takes over to the rounding of a pixel."""
    # Far from 0 and 255: Pillow clips what overshoots between rows and columns, and begins with whichever is cheaper.
    image = Image.fromarray(np.random.default_rng(0).integers(64, 192, size=(height, width, 3), dtype=np.uint8))
    path = save(tmp_path / "image.png", image)
    resized = transforms.resize(image, [256], transforms.InterpolationMode(interpolation))
    if place is None:
        expected = transforms.center_crop(resized, [224])
    else:
        top, left = (math.floor(u * (side - 224 + 1)) for u, side in zip(place, resized.size[::-1], strict=True))
        expected = transforms.crop(resized, top, left, 224, 224)
    found = read_crop(path, Crop(224, 256, interpolation), place)
    assert np.abs(found.astype(int) - np.asarray(expected).astype(int)).max() <= 1


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 50), st.integers(0, 50), st.data())
def test_a_box_lies_in_the_image_and_keeps_its_shape(
    width: int, height: int, size: int, margin: int, data: st.DataObject
) -> None:
    uniform = st.floats(0, 1, exclude_max=True)
    place = data.draw(st.none() | st.tuples(uniform, uniform))
    box = box_after_resizing(width, height, size + margin, size, place)
    assert 0 <= box.left < box.right <= width
    assert 0 <= box.top < box.bottom <= height
    resize = size + margin
    for side in (box.right - box.left, box.bottom - box.top):
        # Exact for the short side; the long side is rounded down by less than one of at least `resize` pixels.
        assert 1 - 1e-9 <= side * resize / min(width, height) / size < 1 + 1 / resize + 1e-9


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(0, 10**6))
def test_a_random_box_lies_in_the_image_and_has_an_allowed_shape(width: int, height: int, index: int) -> None:
    uniform = sample_uniform(0, 0, torch.tensor([index]), count=22)[0].tolist()
    left, top, right, bottom = box_of_random_area(width, height, uniform, SCALE, RATIO)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    across, down = right - left, bottom - top
    # Rounding to whole pixels moves a side by up to a half.
    assert (across + 1) / max(down - 1, 0.1) >= RATIO[0]
    assert max(across - 1, 0.1) / (down + 1) <= RATIO[1]


def test_a_box_that_never_fits_is_the_greatest_centred_one() -> None:
    """At the greatest area no ratio fits a strip; torchvision then takes the same box."""
    uniform = [0.5] * 2 + [1 - 1e-7] * 20
    assert box_of_random_area(400, 100, uniform, SCALE, RATIO) == Box(133, 0, 266, 100)
    assert box_of_random_area(100, 400, uniform, SCALE, RATIO) == Box(0, 133, 100, 266)


def test_random_boxes_are_distributed_as_torchvisions() -> None:
    """Area and ratio of the boxes (Kolmogorov-Smirnov), for an image in which many draws do not fit."""
    width, height, count = 500, 250, 4000
    uniform = sample_uniform(0, 0, torch.arange(count), count=22).tolist()
    ours = np.array([box_of_random_area(width, height, u, SCALE, RATIO) for u in uniform])
    image = torch.empty(1, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = np.array([RandomResizedCrop.get_params(image, list(SCALE), list(RATIO)) for _ in range(count)])
    our_width, our_height = ours[:, 2] - ours[:, 0], ours[:, 3] - ours[:, 1]
    assert kstest(our_width * our_height, theirs[:, 2] * theirs[:, 3]).pvalue > 0.01
    assert kstest(our_width / our_height, theirs[:, 3] / theirs[:, 2]).pvalue > 0.01
    # Places are uniform over those that are free, apart from the rounding to pixels.
    free = our_height < height - 40
    assert kstest(((ours[:, 1] + 0.5) / (height - our_height + 1))[free], "uniform").pvalue > 0.01


def test_a_random_box_is_what_is_resized(tmp_path: Path) -> None:
    image = photograph(300, 200)
    path = save(tmp_path / "image.png", image)
    uniform = sample_uniform(3, 1, torch.tensor([5]), count=22)[0].tolist()
    left, top, right, bottom = box_of_random_area(300, 200, uniform, SCALE, RATIO)
    size, bilinear = [64, 64], transforms.InterpolationMode.BILINEAR
    expected = transforms.resized_crop(image, int(top), int(left), int(bottom - top), int(right - left), size, bilinear)
    found = read_crop(path, ResizedCrop(64, 72), uniform)
    inside = np.abs(found.astype(int) - np.asarray(expected).astype(int))[2:-2, 2:-2]  # only edges see beyond the box
    assert inside.max() <= 2


def test_a_large_jpeg_decodes_to_a_coarser_size_that_looks_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = photograph(1600, 1200)
    jpeg, png = save(tmp_path / "image.jpg", image, quality=98), save(tmp_path / "image.png", image)
    decoded: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def recorded(self: Image.Image, *args: Any, **options: Any) -> Image.Image:
        decoded.append(self.size)
        return resize(self, *args, **options)

    monkeypatch.setattr(Image.Image, "resize", recorded)
    crop = Crop(56, 64)
    coarse, exact = (read_crop(path, crop, (0.2, 0.9)).astype(int) for path in (jpeg, png))
    assert decoded == [(200, 150), (1600, 1200)]  # an eighth: still more than twice 64
    assert np.abs(coarse - exact).max() <= 6


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_every_kind_of_image_comes_as_three_colours(tmp_path: Path, mode: str) -> None:
    image = photograph(40, 40).convert(mode)
    path = save(tmp_path / ("image.tif" if mode == "CMYK" else "image.png"), image)
    found = read_crop(path, Crop(40, 40), None)
    np.testing.assert_array_equal(found, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("name", ["image.png", "image.tif", "image.pgm"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path, name: str) -> None:
    values = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    found = read_crop(save(tmp_path / name, Image.fromarray(values)), Crop(32, 32), None)
    np.testing.assert_array_equal(found, np.repeat((values / 257).round()[:, :, None], 3, axis=2))


def test_floating_point_images_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "image.tif", Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)))
    with pytest.raises(UnreadableImage, match=r"image\.tif cannot be read as an image \(its values are floating-point"):
        read_crop(path, Crop(8, 8), None)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_whose_files_are_found_is_read(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"image{suffix.upper()}", Image.new("RGB", (16, 16), (200, 200, 200)))
    assert image_names(tmp_path) == [path.name]
    assert np.abs(read_crop(path, Crop(8, 8), None).astype(int) - 200).max() <= 4


def test_a_source_fetches_the_rows_that_are_asked_for(tmp_path: Path) -> None:
    shades(tmp_path, "train", ["a", "b"])
    names, label = files_by_class(tmp_path / "train", ["a", "b"])
    source = ImageFiles(tmp_path / "train", names, label, Crop(8, 10))
    batch = source.fetch(torch.tensor([6, 1]), None)
    assert batch.shape == (2, 3, 8, 8)
    assert batch.dtype == torch.uint8
    assert batch.flatten(2).float().mean(dim=2).tolist() == [[10, 20, 100], [0, 10, 100]]
    assert source.label[[6, 1]].tolist() == [1, 0]


# files that are not images


def truncated_png() -> bytes:
    buffer = io.BytesIO()
    photograph(60, 60).save(buffer, "png")
    return buffer.getvalue()[: buffer.tell() // 2]


def truncated_jpeg() -> bytes:
    buffer = io.BytesIO()
    photograph(300, 300).save(buffer, "jpeg")
    return buffer.getvalue()[: buffer.tell() // 2]


@pytest.mark.parametrize(
    "content",
    [truncated_png(), truncated_jpeg(), truncated_png()[:20], b"", b"<html>not an image</html>"],
    ids=["half a PNG", "half a JPEG", "head of a PNG", "empty", "text"],
)
def test_a_damaged_file_is_named_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(UnreadableImage, match=rf"^{path} cannot be read as an image \(.+\); replace or remove it$"):
        read_crop(path, Crop(16, 16), None)


def test_a_file_that_has_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match=rf"^{tmp_path / 'gone.png'} cannot be read .*No such file"):
        read_crop(tmp_path / "gone.png", Crop(16, 16), None)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_file_is_one_sentence_from_a_worker_too(tmp_path: Path, num_workers: int) -> None:
    for split in ("train", "test"):
        shades(tmp_path, split, ["a", "b"])
    damaged = tmp_path / "train" / "b" / "3.png"
    damaged.write_bytes(truncated_png())
    data = loaded(ImageFolder, str(tmp_path), batch_size=4, image_size=8, resize=8, num_workers=num_workers)
    data.setup("fit")
    with pytest.raises(ValueError, match="cannot be read") as raised:
        list(data.train_dataloader())
    sentence = str(raised.value)
    assert sentence.startswith(f"{damaged} cannot be read as an image (")
    assert sentence.endswith("); replace or remove it")
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("arguments", "key"),
    [((0, 8), "image_size"), ((8, 7), "resize"), ((8, 8, 0.0), "min_area"), ((8, 8, 1.5), "min_area")],
)
def test_crops_that_cannot_be_are_refused(arguments: tuple, key: str) -> None:
    with pytest.raises(ValueError, match=key):
        ResizedCrop(*arguments)
    with pytest.raises(ValueError, match="interpolation must be one of bilinear, bicubic, got nearest"):
        Crop(8, 8, "nearest")  # type: ignore[arg-type]


# folders


def test_names_are_sorted_images_of_all_subfolders(tmp_path: Path) -> None:
    for name in ("b.JPEG", "a.png", "sub/c.webp", ".hidden.png", ".cache/d.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert image_names(tmp_path) == ["a.png", "b.JPEG", "sub/c.webp"]


def test_a_file_name_in_any_bytes_is_found_again(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9\xf0\x9f\x98\x80.png")
    save(tmp_path / "k" / name, Image.new("RGB", (8, 8), (1, 2, 3)))
    names, label = files_by_class(tmp_path, ["k"])
    batch = ImageFiles(tmp_path, names, label, Crop(8, 8)).fetch(torch.tensor([0]), None)
    assert batch[0, :, 0, 0].tolist() == [1, 2, 3]


class Recorder(LightningModule):
    """Keeps what it is given, and learns nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.batches: list[dict[str, Any]] = []
        self.validated: list[dict[str, Any]] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        self.batches.append(batch)
        return self.weight * batch["image"].sum()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.validated.append(batch)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.validated.append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def trainer(directory: Path, epochs: int = 1) -> Trainer:
    return Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=MetricsTable(directory),
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def trained(data: LabelledImages, directory: Path, epochs: int = 1) -> Recorder:
    module = Recorder()
    trainer(directory, epochs).fit(module, datamodule=data)
    return module


@pytest.fixture
def own_images(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    shades(root, "train", ["cat", "dog", "emu"], per_class=5)
    shades(root, "val", ["cat", "dog", "emu"], per_class=2)
    shades(root, "test", ["cat", "dog", "emu"], per_class=3)
    return root


def test_a_users_folders_are_trained_validated_and_tested_on(own_images: Path, tmp_path: Path) -> None:
    data = loaded(ImageFolder, str(own_images), batch_size=8, image_size=8, resize=8, num_workers=0)
    assert (data.num_classes, data.class_names, data.image_shape) == (3, ["cat", "dog", "emu"], (3, 8, 8))
    module = trained(data, tmp_path)
    images = torch.cat([batch["image"] for batch in module.batches])
    labels = torch.cat([batch["label"] for batch in module.batches])
    assert images.dtype == torch.float32
    assert len(images) == data.num_train_samples == 15
    torch.testing.assert_close(images[:, 0].mean(dim=(1, 2)) * 255, 10.0 * labels)
    assert sorted(torch.cat([batch["index"] for batch in module.batches]).tolist()) == list(range(15))
    assert [len(batch["label"]) for batch in module.validated] == [6]
    module.validated.clear()
    trainer(tmp_path).test(module, datamodule=data, verbose=False)
    tested = torch.cat([batch["image"] for batch in module.validated])
    assert (tested[:, 1, 0, 0] * 255).round().tolist() == [0, 10, 20] * 3
    assert "visit" not in module.batches[0]


def test_without_a_test_folder_the_validation_folder_tests(tmp_path: Path) -> None:
    shades(tmp_path, "train", ["a", "b"])
    shades(tmp_path, "val", ["a", "b"], per_class=1)
    data = loaded(ImageFolder, str(tmp_path), batch_size=4, image_size=8, resize=8, validation_fraction=0.25)
    data.setup("fit")
    data.setup("test")
    assert data.num_train_samples == 6
    assert data.validation_set is not None
    assert data.test_set is not None
    assert (len(data.validation_set), len(data.test_set)) == (2, 2)
    assert ImageFolder(str(tmp_path)).validation() is None


def test_workers_deliver_the_same_images_in_every_epoch(own_images: Path, tmp_path: Path) -> None:
    """With persistent workers the epoch reaches them with each request: crops change, and no process count matters."""
    for position, path in enumerate(sorted((own_images / "train").rglob("*.png"))):
        photograph(40, 30, seed=position).save(path)

    def images(num_workers: int) -> Tensor:
        data = loaded(
            ImageFolder, str(own_images), batch_size=5, image_size=8, resize=8, num_workers=num_workers, seed=1
        )
        batches = trained(data, tmp_path, epochs=2).batches
        order = torch.cat([batch["index"] for batch in batches]).view(2, 15).argsort(dim=1)
        flat = torch.cat([batch["image"] for batch in batches]).view(2, 15, -1)
        return flat.gather(1, order[..., None].expand(-1, -1, flat.shape[2]))

    alone, with_workers = images(0), images(2)
    assert torch.equal(alone, with_workers)
    assert not torch.isclose(alone[0], alone[1]).all(dim=1).any()


def test_a_users_labels_come_by_position_and_their_table_names_the_files(own_images: Path, tmp_path: Path) -> None:
    data = loaded(
        ImageFolder,
        str(own_images),
        batch_size=5,
        label_noise=Symmetric(0.5, seed=3),
        image_size=8,
        resize=8,
        num_workers=0,
    )
    run = trainer(tmp_path)
    run.fit(Recorder(), datamodule=data)
    table = (tmp_path / "labels.csv").read_text().splitlines()
    assert table[0] == "index,label,clean_label,split,name"
    assert [row.split(",")[-1] for row in table[1:4]] == ["cat/0.png", "cat/1.png", "cat/2.png"]
    again = loaded(ImageFolder, str(own_images), label_noise=FromCSV(str(tmp_path / "labels.csv")), batch_size=5)
    again.setup("fit")
    assert data.train_set is not None
    assert again.train_set is not None
    assert torch.equal(again.train_set.label, data.train_set.label)
    assert (again.train_set.label != again.train_set.clean_label).any()


def test_a_few_files_of_a_folder_are_labelled_by_name(own_images: Path, tmp_path: Path) -> None:
    table = tmp_path / "corrected.csv"
    table.write_text("name,label\ncat/1.png,dog\n")
    data = loaded(ImageFolder, str(own_images), label_noise=FromCSV(str(table), partial=True), batch_size=5)
    data.setup("fit")
    assert data.train_set is not None
    source: Any = data.train_set.source
    changed = (data.train_set.label != source.label).nonzero().flatten().tolist()
    assert [source.names[at] for at in changed] == ["cat/1.png"]
    assert data.class_names is not None
    assert data.class_names[data.train_set.label[changed[0]]] == "dog"


def test_a_table_without_true_labels_makes_no_folder_the_truth(own_images: Path, tmp_path: Path) -> None:
    images = len(loaded(ImageFolder, str(own_images), image_size=8, resize=8).images.training().label)
    table = tmp_path / "corrected.csv"
    table.write_text("index,label\n" + "".join(f"{i},{i % 2}\n" for i in range(images)))
    data = loaded(
        ImageFolder,
        str(own_images),
        batch_size=2,
        label_noise=FromCSV(str(table)),
        image_size=8,
        resize=8,
        num_workers=0,
    )
    trainer(tmp_path).fit(Recorder(), datamodule=data)
    assert data.train_set is not None
    assert data.train_set.clean_label is None
    assert "clean_label" not in next(iter(data.train_dataloader()))
    assert (tmp_path / "labels.csv").read_text().splitlines()[0] == "index,label,split,name"
    known = tmp_path / "known.csv"
    known.write_text(
        "index,label,clean_label\n"
        + "".join(f"{i},0,{true}\n" for i, true in enumerate(data.images.training().label.tolist()))
    )
    data = loaded(ImageFolder, str(own_images), batch_size=2, label_noise=FromCSV(str(known)), image_size=8, resize=8)
    data.setup("fit")
    assert data.train_set is not None
    assert torch.equal(data.train_set.clean_label, data.images.training().label[data.train_set.row])  # type: ignore[arg-type]


def rename_tests(root: Path) -> None:
    for name in ("test", "val"):
        (root / name).rename(root / f"my {name}")


FOLDER_FAULTS: list[tuple[Callable[[Path], object], type[Exception], str]] = [
    (lambda root: (root / "train").rename(root / "t"), FileNotFoundError, "train does not exist; expected .*<image>"),
    (lambda root: (root / "train" / "fox").mkdir(), FileNotFoundError, "train/fox holds no image; expected files that"),
    (lambda root: (root / "test" / "fox").mkdir(), ValueError, "test holds folders that are no class of .*train: fox"),
    (lambda root: (root / "test" / "emu").rename(root / "emu"), FileNotFoundError, "test holds no folder emu"),
    (rename_tests, FileNotFoundError, "holds neither test/<class>/<image> nor val"),
]


def set_up(root: Path) -> None:
    data = loaded(ImageFolder, str(root), batch_size=2)
    data.setup("fit")
    data.setup("test")


@pytest.mark.parametrize(("harm", "error", "message"), FOLDER_FAULTS)
def test_folders_that_do_not_fit_are_named(
    own_images: Path, harm: Callable[[Path], object], error: type[Exception], message: str
) -> None:
    harm(own_images)
    with pytest.raises(error, match=message):
        set_up(own_images)


def test_a_folder_of_images_without_classes_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "train" / "image.png", photograph(8, 8))
    with pytest.raises(FileNotFoundError, match=r"train holds no folder; expected .*one folder for each class"):
        loaded(ImageFolder, str(tmp_path))


def test_a_data_dir_that_is_a_file_or_missing_is_named(tmp_path: Path) -> None:
    file = save(tmp_path / "photo.png", photograph(8, 8))
    with pytest.raises(NotADirectoryError, match=r"data_dir .*photo\.png is a file"):
        loaded(ImageFolder, str(file))
    with pytest.raises(FileNotFoundError, match=r"data_dir .*nowhere does not exist"):
        loaded(ImageFolder, str(tmp_path / "nowhere"))


# ImageNet

WNIDS = [f"n{number:08d}" for number in (1440764, 1443537, 1484850, 1491361)]


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    root = tmp_path / "data" / "imagenet"
    shades(root, "train", WNIDS, per_class=2)
    shades(root, "val", WNIDS, per_class=1)
    return root


def test_the_first_classes_of_imagenet(imagenet: Path) -> None:
    data = loaded(ImageNet, str(imagenet), classes=3, batch_size=4)
    assert (data.num_classes, data.image_shape) == (3, (3, 224, 224))
    data.setup("fit")
    data.setup("test")
    assert data.class_names == WNIDS[:3]
    assert data.train_set is not None
    assert data.test_set is not None
    assert data.train_set.label.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.test_set.label.tolist() == [0, 1, 2]
    above = loaded(ImageNet, str(imagenet.parent), classes=3, batch_size=4)
    above.setup("test")
    assert above.class_names == WNIDS[:3]


def test_a_list_of_classes_is_numbered_by_wnid(imagenet: Path, tmp_path: Path) -> None:
    """As torchvision numbers the folders of a subset, whatever the order of the list."""
    listed = tmp_path / "imagenet2.txt"
    listed.write_text(f"{WNIDS[3]} hammerhead\n\n{WNIDS[1]}\n")
    data = loaded(ImageNet, str(imagenet), classes=str(listed), batch_size=2)
    assert data.num_classes == 2
    data.setup("test")
    assert data.class_names == [WNIDS[1], WNIDS[3]]
    assert data.test_set is not None
    red = data.test_set.source.fetch(torch.tensor([0, 1]), None)[:, 0, 0, 0]
    assert red.tolist() == [10, 30]
    listed.write_text(f"{WNIDS[3]}\n{WNIDS[3]}\n")
    with pytest.raises(ValueError, match=rf"lists {WNIDS[3]} more than once"):
        loaded(ImageNet, str(imagenet), classes=str(listed))
    with pytest.raises(FileNotFoundError, match=r"classes: .*nowhere\.txt does not exist"):
        loaded(ImageNet, str(imagenet), classes=str(tmp_path / "nowhere.txt"))


def test_imagenet_folders_that_do_not_fit_are_named(imagenet: Path) -> None:
    with pytest.raises(ValueError, match=r"holds 4 folders, one for each class, and classes None needs 1000"):
        loaded(ImageNet, str(imagenet)).setup("fit")
    with pytest.raises(ValueError, match=r"classes 5 needs 5"):
        loaded(ImageNet, str(imagenet), classes=5).setup("fit")
    with pytest.raises(ValueError, match=r"classes must be in 1\.\.\.1000"):
        loaded(ImageNet, str(imagenet), classes=0)
    for folder in (imagenet / "val").iterdir():
        next(folder.iterdir()).rename(imagenet / "val" / f"{folder.name}.png")
        folder.rmdir()
    with pytest.raises(FileNotFoundError, match=r"val holds no folder; expected .*one folder for each class"):
        loaded(ImageNet, str(imagenet), classes=2).setup("test")
    with pytest.raises(FileNotFoundError, match=r"found no train/<wnid> in .* or its subfolder imagenet"):
        loaded(ImageNet, str(imagenet / "val"), classes=2).setup("fit")


# Clothing1M


@pytest.fixture
def clothing(tmp_path: Path) -> Path:
    """Class k has k + 1 noisy images; two clean ones validate, three test."""
    root, random = tmp_path / "clothing1m", np.random.default_rng(0)
    noisy = [(f"images/{k}/{i}.jpg", k) for k in range(14) for i in range(k + 1)]
    noisy = [noisy[i] for i in random.permutation(len(noisy))]
    clean = [(f"images/c/{i}.jpg", i) for i in range(5)]
    for key, _ in [*noisy, *clean]:
        save(root / key, Image.new("RGB", (12, 9)))
    lists = root / "annotations"
    lists.mkdir()
    (lists / "noisy_label_kv.txt").write_text("".join(f"{key} {label}\n" for key, label in reversed(noisy)))
    (lists / "clean_label_kv.txt").write_text("".join(f"{key} {label}\n" for key, label in [*clean, (noisy[0][0], 3)]))
    for name, keys in {"noisy_train": noisy, "clean_val": clean[:2], "clean_test": clean[2:]}.items():
        (lists / f"{name}_key_list.txt").write_text("".join(f"{key}\n" for key, _ in keys))
    return root


def test_clothing1m_reads_its_lists(clothing: Path) -> None:
    data = loaded(Clothing1M, str(clothing), batch_size=4, batches_per_epoch=None, image_size=8, resize=8)
    data.setup("fit")
    data.setup("test")
    assert data.train_set is not None
    assert data.validation_set is not None
    assert data.test_set is not None
    assert (data.num_train_samples, data.samples_per_epoch()) == (105, 105)
    assert data.train_set.label.bincount().tolist() == list(range(1, 15))
    source: Any = data.train_set.source
    assert [int(name.split("/")[1]) for name in source.names] == data.train_set.label.tolist()
    assert data.train_set.clean_label is None
    assert data.validation_set.label.tolist() == [0, 1]
    assert data.test_set.label.tolist() == [2, 3, 4]
    assert data.class_names is not None
    assert len(data.class_names) == 14


def test_the_folder_of_images_may_be_given_for_clothing1m(clothing: Path) -> None:
    data = loaded(Clothing1M, str(clothing / "images"), image_size=8, resize=8)
    assert data.images.validation().fetch(torch.tensor([0, 1]), None).shape == (2, 3, 8, 8)


def test_an_epoch_is_balanced_over_the_noisy_labels_and_drawn_anew(clothing: Path) -> None:
    data = loaded(
        Clothing1M, str(clothing), batch_size=8, batches_per_epoch=7, image_size=8, resize=8, passes_per_epoch=2, seed=5
    )
    data.setup("fit")
    assert data.samples_per_epoch() == 1 + 2 + 3 + 11 * 4  # four of each class, of the first three all they have
    sampler: Any = data.train_dataloader().sampler
    assert data.train_set is not None
    passes: list[list[int]] = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        requests = list(sampler)
        assert len(requests) == len(sampler) == 2 * 7
        for start in (0, 7):
            visited = torch.cat([request.indices for request in requests[start : start + 7]])
            assert len(set(visited.tolist())) == len(visited)
            assert data.train_set.label[visited].diff().lt(0).sum() > 10  # classes are mixed
            counts = data.train_set.label[visited].bincount()
            assert counts.tolist() == [1, 2, 3, *[4] * 11][: len(counts)]
            passes.append(visited.tolist())
        assert [request.visit for request in requests] == [2 * epoch] * 7 + [2 * epoch + 1] * 7
    assert len({tuple(sorted(visited)) for visited in passes}) == 6
    assert len({index for visited in passes for index in visited}) > 80


def test_batches_that_classes_do_not_divide_give_the_first_classes_one_image_more(clothing: Path) -> None:
    data = loaded(Clothing1M, str(clothing), batch_size=8, batches_per_epoch=4, image_size=8, resize=8)
    data.setup("fit")
    assert data.samples_per_epoch() == sum([1, 2, 3, 3, *[2] * 10])  # 32 = 2 * 14 + 4
    drawn = data.draw_epoch(np.random.default_rng(0))
    assert np.bincount(data.train_set.given.numpy()[drawn]).tolist() == [1, 2, 3, 3, *[2] * 10]


def test_an_epoch_of_cached_features_is_balanced_as_that_of_the_images(clothing: Path, tmp_path: Path) -> None:
    data = loaded(Clothing1M, str(clothing), batch_size=14, batches_per_epoch=2, image_size=8, resize=8, num_workers=0)
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 4))
    images = CachedFeatures(data.images, encoder, num_features=4, cache_dir=str(tmp_path / "cache"), num_workers=0)
    features = LabelledImages(images, 14, batches_per_epoch=2)
    features.setup("fit")
    assert features.samples_per_epoch() == 1 + 13 * 2
    label = torch.cat([batch["label"] for batch in features.train_dataloader()])
    assert label.bincount().tolist() == [1, *[2] * 13]


def test_every_image_of_a_class_is_equally_likely_in_an_epoch(clothing: Path) -> None:
    data = loaded(Clothing1M, str(clothing), batch_size=14, batches_per_epoch=2, image_size=8, resize=8)
    data.setup("fit")
    draws = np.concatenate([data.draw_epoch(np.random.default_rng(seed)) for seed in range(2000)])
    members = np.flatnonzero(data.train_set.given.numpy() == 13)
    counts = np.bincount(draws, minlength=105)[members]
    assert counts.sum() == 2 * 2000
    assert chisquare(counts).pvalue > 0.01  # drawn without replacement: spread less than chi-square allows, never more


def test_clothing1m_says_what_is_missing(clothing: Path) -> None:
    with pytest.raises(ValueError, match="batches_per_epoch must be at least 1, got 0"):
        loaded(Clothing1M, str(clothing), batches_per_epoch=0)
    labels = clothing / "annotations" / "noisy_label_kv.txt"
    labels.write_text("\n".join(labels.read_text().splitlines()[:50]))
    with pytest.raises(ValueError, match=r"noisy_label_kv\.txt has no label for an image of noisy_train: 'images/"):
        loaded(Clothing1M, str(clothing)).setup("fit")
    labels.unlink()
    with pytest.raises(FileNotFoundError, match=r"annotations/noisy_label_kv\.txt does not exist; ask the authors"):
        loaded(Clothing1M, str(clothing)).setup("fit")
    (clothing / "images").rename(clothing / "pictures")
    with pytest.raises(FileNotFoundError, match=r"images/c/2\.jpg does not exist; extract the archives"):
        loaded(Clothing1M, str(clothing)).setup("test")


# WebVision


@pytest.fixture
def webvision(tmp_path: Path) -> Path:
    root = tmp_path / "webvision"
    train = [(f"google/q{k:04d}/{i}.jpg", k) for k in range(4) for i in range(3)]
    val = [(f"val{i:06d}.jpg", i % 4) for i in range(8)]
    for key, label in train:
        save(root / key, Image.new("RGB", (12, 9), (20 * label, 0, 0)))
    for key, label in val:
        save(root / "val_images_256" / key, Image.new("RGB", (12, 9), (20 * label, 0, 0)))
    shades(root / "imagenet", "val", WNIDS, per_class=1)
    (root / "info").mkdir()
    (root / "info" / "train_filelist_google.txt").write_text("".join(f"{key} {label}\n" for key, label in train))
    (root / "info" / "val_filelist.txt").write_text("".join(f"{key} {label}\n" for key, label in val))
    return root


def test_webvision_keeps_the_first_classes(webvision: Path) -> None:
    data = loaded(WebVision, str(webvision), num_classes=3, batch_size=3, image_size=8, resize=8)
    assert (data.num_classes, data.image_shape) == (3, (3, 8, 8))
    data.setup("fit")
    data.setup("test")
    assert data.train_set is not None
    assert data.validation_set is not None
    assert data.test_set is not None
    assert data.train_set.label.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert data.train_set.clean_label is None
    assert data.validation_set.label.tolist() == data.test_set.label.tolist() == [0, 1, 2, 0, 1, 2]
    images = data.validation_set.source.fetch(torch.arange(6), None)
    assert [round(red / 20) for red in images[:, 0, 0, 0].tolist()] == [0, 1, 2, 0, 1, 2]


def test_webvision_tests_on_the_same_classes_of_imagenet(webvision: Path) -> None:
    def classes(**options: Any) -> list[int]:
        data = loaded(WebVision, str(webvision), num_classes=3, test_on="imagenet", image_size=8, resize=8, **options)
        data.setup("test")
        assert data.test_set is not None
        assert data.test_set.label.tolist() == [0, 1, 2]
        return (data.test_set.source.fetch(torch.arange(3), None)[:, 0, 0, 0] / 10).int().tolist()

    assert classes() == classes(imagenet_dir=str(webvision / "imagenet")) == [0, 1, 2]
    (webvision / "info" / "synsets.txt").write_text("".join(f"{WNIDS[k]} a name, another\n" for k in (1, 0, 3, 2)))
    assert classes() == [1, 0, 3]


def test_webvision_says_what_is_missing(webvision: Path) -> None:
    with pytest.raises(ValueError, match=r"num_classes must be in \[1, 1000\], got 0"):
        loaded(WebVision, str(webvision), num_classes=0)
    with pytest.raises(ValueError, match="test_on must be one of webvision, imagenet, got"):
        loaded(WebVision, str(webvision), test_on="flickr")  # type: ignore[arg-type]
    (webvision / "info" / "val_filelist.txt").write_text("val000000.jpg 0\nval000001.jpg\n")
    with pytest.raises(ValueError, match=r"val_filelist\.txt, line 2: expected <file> <label>, got 'val"):
        loaded(WebVision, str(webvision)).setup("test")
    (webvision / "google").rename(webvision / "images")
    with pytest.raises(FileNotFoundError, match=r"google/q0000/0\.jpg does not exist; .*train_filelist_google"):
        loaded(WebVision, str(webvision)).setup("fit")
    (webvision / "info").rename(webvision / "lists")
    with pytest.raises(FileNotFoundError, match=r"info/train_filelist_google\.txt does not exist; fetch"):
        loaded(WebVision, str(webvision)).setup("fit")
    with pytest.raises(FileNotFoundError, match=r"ImageNet: found no val/<wnid>"):
        loaded(WebVision, str(webvision), test_on="imagenet", imagenet_dir=str(webvision / "lists")).setup("test")
