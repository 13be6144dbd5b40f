"""Sets with images of no class among those of their classes: made by replacement, found on the web, and synthetic."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datamodules.classification.cifar import CIFAR100
from datamodules.classification.clustered import NUM_CLASSES, Clustered, Clusters
from datamodules.classification.cnwl import CNWL
from datamodules.classification.digits import Digits
from datamodules.classification.foreign_images import ForeignImages, replacements
from datamodules.classification.image_sets import UNKNOWN, ImageSet, ImagesInMemory, OtherImages
from datamodules.classification.imagenet32 import ImageNet32, read_batch
from datamodules.classification.labelled_images import LabelledImages
from datamodules.classification.ood_images import OtherDigits
from datamodules.classification.web_fg import WebFG
from datamodules.corruptions.label_noise import Symmetric

# replacement


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), rate=st.floats(0, 0.9), num=st.integers(1, 300))
def test_replacements_are_drawn_once_each_and_follow_the_seed(seed: int, rate: float, num: int) -> None:
    rows, others = replacements(num, 400, rate, seed)
    assert len(rows) == len(others) == len(others.unique()) == len(rows.unique())
    assert ((others >= 0) & (others < 400)).all()
    again, _ = replacements(num, 400, rate, seed)
    assert torch.equal(again, rows)


def test_each_image_is_replaced_with_the_stated_probability() -> None:
    counts = torch.zeros(50)
    for seed in range(400):
        counts[replacements(50, 60, 0.3, seed)[0]] += 1
    assert abs(counts.mean() / 400 - 0.3) < 4 * (0.21 / 20000) ** 0.5
    assert ((counts / 400 - 0.3).abs() < 5 * (0.21 / 400) ** 0.5).all()


class Numbered(OtherImages):
    """Images whose pixels are all 100 and more, by their number, of another brightness."""

    def __init__(self, num: int = 40, brightest: int = 255) -> None:
        self.num, self.brightest = num, brightest

    def of_no_class(self, image_shape: tuple[int, ...], seed: int) -> ImagesInMemory:
        image = (100 + torch.arange(self.num, dtype=torch.uint8)).view(-1, 1, 1, 1).expand(-1, *image_shape)
        return ImagesInMemory(image.clone(), torch.full((self.num,), UNKNOWN), self.brightest)


class Counted(ImageSet):
    """Fifty images, whose pixels are their number."""

    num_classes, image_shape = 5, (1, 2, 2)

    def training(self) -> ImagesInMemory:
        return ImagesInMemory(
            torch.arange(50, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 1, 2, 2), torch.arange(50) % 5
        )

    test = training


def mixed(others: OtherImages, noise_rate: float, drawn: int, seed: int | None = None) -> ImagesInMemory:
    return ForeignImages(Counted(), others, noise_rate, seed).prepared(drawn, torch.device("cpu")).training()


def test_replaced_images_keep_their_labels_and_are_of_no_class() -> None:
    given_source, found = Counted().training(), mixed(Numbered(), 0.4, drawn=5)
    foreign = found.image[:, 0, 0, 0] >= 100
    assert 8 < foreign.sum() < 32
    assert torch.equal(found.label, given_source.label)
    assert torch.equal(found.clean_label, torch.where(foreign, -1, found.label))
    assert torch.equal(found.image[~foreign], given_source.image[~foreign])


def test_other_ranges_of_values_are_rescaled_and_too_few_images_are_refused() -> None:
    bright = mixed(Numbered(brightest=200), 0.4, drawn=5, seed=1)
    plain = mixed(Numbered(), 0.4, drawn=7, seed=1)
    foreign = plain.image[:, 0, 0, 0] >= 100
    expected = (plain.image[foreign].double() * 255 / 200).round()
    assert torch.equal(bright.image[foreign].double(), expected)
    with pytest.raises(ValueError, match="there are only 3 others"):
        mixed(Numbered(3), 0.9, drawn=0)
    with pytest.raises(ValueError, match="noise_rate"):
        mixed(Numbered(), 1.0, drawn=0)


def test_digits_from_the_web_are_partly_other_digits_whose_labels_are_wrong() -> None:
    web = ForeignImages(Digits(num_classes=5), OtherDigits([5, 6, 7, 8, 9]), 0.4)
    data = LabelledImages(web, label_noise=Symmetric(0.25), seed=1)
    data.setup("fit")
    assert data.train_set is not None
    assert data.train_set.clean_label is not None
    true, label = data.train_set.clean_label, data.train_set.label
    foreign = true == UNKNOWN
    assert abs(foreign.float().mean() - 0.4) < 0.08
    assert ((label >= 0) & (label < 5)).all()
    wrong = (label != true)[~foreign].float().mean()
    assert abs(wrong - 0.25 * 4 / 5) < 0.08
    pixels = {image.numpy().tobytes() for image in data.train_set.source.fetch(torch.arange(len(true))[foreign], None)}
    later = {image.numpy().tobytes() for image in OtherDigits([5, 6, 7, 8, 9]).of_no_class((1, 8, 8), 0).image}
    assert pixels <= later
    batch = next(iter(data.training_images_dataloader()))
    assert torch.equal(batch["clean_label"], true[batch["index"]])


# ImageNet32 and CIFAR-100


def write_batches(folder: Path, kind: str, num: int = 60) -> np.ndarray:
    folder.mkdir(parents=True)
    data = np.random.default_rng(0).integers(0, 256, (num, 3072), dtype=np.uint8)
    if kind == "npz":
        np.savez(folder / "train_data_batch_1.npz", data=data, labels=np.ones(num))
    else:
        content = {"data": data, "labels": [1] * num, "mean": data.mean(axis=0)}
        (folder / "train_data_batch_1").write_bytes(pickle.dumps(content, protocol=2))
    return data


@pytest.mark.parametrize("kind", ["npz", "pickle"])
@pytest.mark.parametrize("folder", ["", "imagenet32"])
def test_imagenet32_is_read_as_it_is_distributed(kind: str, folder: str, tmp_path: Path) -> None:
    root = tmp_path / "set"
    data = write_batches(root / folder, kind)
    images = ImageNet32(str(root), num_files=1).of_no_class((3, 32, 32), 0)
    assert np.array_equal(images.fetch(torch.tensor([7]), None)[0].numpy(), data[7].reshape(3, 32, 32))
    assert (images.label == UNKNOWN).all()
    with pytest.raises(FileNotFoundError, match="train_data_batch_2 does not exist"):
        ImageNet32(str(root), num_files=2).of_no_class((3, 32, 32), 0)
    with pytest.raises(ValueError, match="those of the set are"):
        ImageNet32(str(root), num_files=1).of_no_class((1, 8, 8), 0)


class Opens:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (str(self.path), "w")


def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    bad = tmp_path / "train_data_batch_1"
    bad.write_bytes(pickle.dumps({"data": Opens(tmp_path / "made")}))
    with pytest.raises(ValueError, match="train_data_batch_1"):
        read_batch(bad)
    assert not (tmp_path / "made").exists()
    bad.write_bytes(b"\x80\x04nonsense")
    with pytest.raises(ValueError, match="train_data_batch_1"):
        read_batch(bad)
    bad.write_bytes(pickle.dumps({"data": np.zeros((4, 5), dtype=np.uint8)}))
    with pytest.raises(ValueError, match=r"must be \[N, 3072\]"):
        read_batch(bad)


def test_cifar_takes_foreign_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_batches(tmp_path / "imagenet32", "npz")
    stored = ImagesInMemory(torch.zeros(100, 3, 32, 32, dtype=torch.uint8), torch.arange(100))
    monkeypatch.setattr(CIFAR100, "_read", lambda self, split: stored)
    data = LabelledImages(ForeignImages(CIFAR100(), ImageNet32(str(tmp_path), num_files=1), 0.3), batch_size=9, seed=2)
    data.setup("fit")
    assert data.train_set is not None
    assert data.train_set.clean_label is not None
    replaced = data.train_set.source.fetch(torch.arange(100), None).flatten(1).any(dim=1)
    assert torch.equal(data.train_set.clean_label == UNKNOWN, replaced)
    assert 10 < replaced.sum() < 50


# from the web


def image_file(path: Path, level: int, size: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (level, level, level)).save(path)


@pytest.mark.parametrize("inside", [True, False])
def test_web_fg_reads_lists_of_files_and_labels(inside: bool, tmp_path: Path) -> None:
    root = tmp_path / "web-car" if inside else tmp_path
    for split, labels in (("train", [0, 195, 7]), ("val", [3, 4])):
        for number in range(len(labels)):
            image_file(root / split / f"a:b {number}.png", 10 * number)
        lines = [f"{split}/a:b {number}.png:{label}" for number, label in enumerate(labels)]
        (root / f"{split}-list.txt").write_text("\n".join(lines) + "\n")
    data = WebFG(str(tmp_path), subject="car", image_size=8, resize=8)
    train, test = data.training(), data.test()
    assert train.label.tolist() == [0, 195, 7]
    assert test.label.tolist() == data.validation().label.tolist() == [3, 4]
    assert train.fetch(torch.tensor([2]), None).unique().tolist() == [20]
    (root / "val-list.txt").write_text("val/0.png 3\n")
    with pytest.raises(ValueError, match="line 1: expected <file>:<label>"):
        data.test()
    (root / "val-list.txt").write_text("val/none.png:3\n")
    with pytest.raises(FileNotFoundError, match=r"none\.png does not exist"):
        data.test()
    with pytest.raises(FileNotFoundError, match="web-bird"):
        WebFG(str(root / "val"), subject="bird").training()


def test_cnwl_reads_its_splits_and_knows_which_images_are_from_the_web(tmp_path: Path) -> None:
    names = ["n01.jpg", "9f2a.jpg", "n02.jpg"]
    for number, name in enumerate(names):
        image_file(tmp_path / "all_images_resampled_84" / name, 40 * number, size=84)
    image_file(tmp_path / "validation" / "5" / "v.png", 200)
    (tmp_path / "split").mkdir()
    (tmp_path / "split" / "red_noise_nl_0.2").write_text("".join(f"{n} {k}\n" for k, n in enumerate(names)))
    (tmp_path / "split" / "validation").write_text("v.png 5\n")
    images = CNWL(str(tmp_path), noise_rate="0.2")
    data = LabelledImages(images, batch_size=2)
    data.setup("fit")
    assert data.train_set is not None
    assert data.train_set.clean_label is not None
    assert data.train_set.clean_label.tolist() == [0, -1, 2]
    assert data.train_set.label.tolist() == [0, 1, 2]
    assert data.train_set.source.fetch(torch.arange(3), None).shape == (3, 3, 32, 32)
    test = images.test()
    assert (test.label.tolist(), test.fetch(torch.tensor([0]), None).unique().tolist()) == ([5], [200])
    with pytest.raises(FileNotFoundError, match=r"red_noise_nl_0\.8 does not exist"):
        CNWL(str(tmp_path), noise_rate="0.8").training()
    with pytest.raises(ValueError, match="noise_rate"):
        CNWL(str(tmp_path), noise_rate="0.3")  # type: ignore[arg-type]


# synthetic


def test_clusters_lie_where_they_are_said_to() -> None:
    line = Clusters(offset=2.0, rare_offset=-0.5, scale=0.0, seed=4)
    direction = line.common[0] / 2
    assert np.linalg.norm(direction) == pytest.approx(1)
    np.testing.assert_allclose(line.rare, np.tile(-direction / 2, (6, 1)))
    np.testing.assert_allclose(line.foreign, np.tile(-2 * direction, (6, 1)))
    clusters = Clusters(offset=2.0, rare_offset=-0.5, scale=1.0, seed=4)
    for kind, position in ((clusters.common, 2.0), (clusters.rare, -0.5), (clusters.foreign, -2.0)):
        np.testing.assert_allclose(kind @ direction, position)
    samples = clusters.draw(60000, 0, 0.25, np.random.default_rng(0))
    assert abs(samples.rare.mean() - 0.25) < 0.01
    for k in range(NUM_CLASSES):
        for rare, centre in ((False, clusters.common[k]), (True, clusters.rare[k])):
            own = samples.value[(samples.label == k) & (samples.rare == rare)]
            assert np.abs(own.mean(axis=0) - centre).max() < 0.15
            assert abs((own - centre).std() - 1) < 0.02


def test_clustered_data_know_their_foreign_samples_and_test_on_classes_alone() -> None:
    data = LabelledImages(Clustered(num_clean=90, num_foreign=60, num_test=36), seed=2, batch_size=10)
    data.setup("fit")
    data.setup("test")
    assert data.train_set is not None
    assert data.test_set is not None
    assert data.train_set.clean_label is not None
    assert (data.train_set.clean_label == -1).sum() == 60
    clean = data.train_set.clean_label >= 0
    assert torch.equal(data.train_set.label[clean], data.train_set.clean_label[clean])
    assert torch.bincount(data.test_set.label).tolist() == [6] * 6
    again = Clustered(num_clean=90, num_foreign=60, num_test=36).prepared(2, torch.device("cpu")).training()
    assert torch.equal(again.image, data.train_set.source.fetch(torch.arange(150), None))


@pytest.mark.parametrize(
    ("key", "value"), [("num_clean", 0), ("num_foreign", -1), ("num_test", 0), ("rare_share", 0.0)]
)
def test_bad_arguments_are_named(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=key):
        Clustered(**{key: value})  # type: ignore[arg-type]
