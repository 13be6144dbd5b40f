from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from PIL import Image
from torch import Tensor

from callbacks.shifted_accuracy import ShiftedAccuracy
from datamodules.classification.cached_features import CachedFeatures
from datamodules.classification.digits import TuningDigits
from datamodules.classification.domain_net import DomainNet
from datamodules.classification.image_folder import ImageFolder
from datamodules.classification.image_sets import ImageSet, ImagesInMemory, ImageSource
from datamodules.classification.imagenet import ImageNet, read_class_map
from datamodules.classification.labelled_images import LabelledImages

QUIET: dict[str, Any] = {
    **{"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False},
    **{"accelerator": "cpu", "use_distributed_sampler": False},
}


def paint(path: Path, red: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 32), (red, 0, 0)).save(path)


def reds(data: Any, source: ImageSource) -> list[int]:
    """Red of all images, which tells them apart."""
    image = source.fetch(torch.arange(len(source.label)), None)
    assert image.shape[1:] == (3, 16, 16)
    return image[:, 0, 8, 8].tolist()


SMALL: dict[str, Any] = {"image_size": 16, "resize": 20, "min_area": None}


# DomainNet


@pytest.fixture
def domain_net(tmp_path: Path) -> Path:
    """Two classes in three domains; red is 100 * domain + 5 * class + image, the last image tests."""
    root = tmp_path / "domain_net"
    for d, domain in enumerate(("real", "sketch", "clipart")):
        lists: dict[str, list[str]] = {"train": [], "test": []}
        for label, category in ((0, "aircraft_carrier"), (7, "ambulance")):
            for image in range(3):
                name = f"{domain}/{category}/{domain}_{image}.png"
                paint(root / name, 100 * d + 5 * label + image)
                lists["test" if image == 2 else "train"].append(f"{name} {label}")
        for split, lines in lists.items():
            (root / f"{domain}_{split}.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_domain_net_trains_on_one_domain_and_tests_on_its_own_and_the_others(domain_net: Path) -> None:
    data = DomainNet(str(domain_net), "sketch", ["clipart", "real"], **SMALL)
    train, test = data.training(), data.test()
    assert (reds(data, train), train.label.tolist()) == ([100, 101, 135, 136], [0, 0, 7, 7])
    assert (reds(data, test), test.label.tolist()) == ([102, 137], [0, 7])
    shifted = data.shifted_tests()
    assert list(shifted) == ["clipart", "real"]
    assert [reds(data, source) for source in shifted.values()] == [[202, 237], [2, 37]]
    assert {len(source.label) for source in shifted.values()} == {2}
    assert len(DomainNet(str(domain_net)).test_domains) == 5


def test_what_is_wrong_with_domain_net_is_named(domain_net: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"found no infograph_test\.txt"):
        DomainNet(str(domain_net), test_domains=["infograph"], **SMALL).shifted_tests()
    with pytest.raises(ValueError, match="there is no domain photo; DomainNet has clipart"):
        DomainNet(str(domain_net), "photo")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="test_domains must be different ones of clipart"):
        DomainNet(str(domain_net), "real", ["real"])
    path = domain_net / "domain_net/clipart_test.txt"
    data = DomainNet(str(domain_net), "real", ["clipart"], **SMALL)
    data.test()
    path.write_text("clipart/ambulance/clipart_0.png 0\n")
    with pytest.raises(ValueError, match="has label 0, which was aircraft_carrier"):
        data.shifted_tests()
    for line in ("clipart/ambulance/clipart_0.png", "a.png x", ""):
        path.write_text(line + "\n")
        with pytest.raises(ValueError, match="line 1: expected <file> <label>"):
            data.shifted_tests()


# ImageNet


WNIDS = ["n01", "n02", "n05", "n09"]


def imagenet(root: Path, **sets: list[str]) -> Path:
    """One image for each class in `val` and `train`, and in each set; red is 10 * folder."""
    for split, folders in {"train": WNIDS, "val": WNIDS, **sets}.items():
        for number, folder in enumerate(folders):
            paint(root / split / folder / "a.png", 10 * number)
    return root


def test_folders_called_by_wnid_give_the_labels_of_imagenet_and_say_which_classes_there_are(tmp_path: Path) -> None:
    root = imagenet(tmp_path, r=["n02", "n09"], sketch=WNIDS, a=["n01", "n07"])
    data = ImageNet(shifted={"r": "r", "sketch": "sketch", "a": "a"}, data_dir=str(root), classes=4, **SMALL)
    shifted = data.shifted_tests()
    assert shifted["r"].label.tolist() == [1, 3]
    assert shifted["r"].classes.tolist() == [1, 3]
    assert shifted["sketch"].label.tolist() == [0, 1, 2, 3]
    assert shifted["sketch"].classes is None
    assert (shifted["a"].label.tolist(), reds(data, shifted["a"])) == ([0], [0])  # n07 is none of the four


def test_numbered_folders_count_the_wnids_of_all_classes(tmp_path: Path) -> None:
    wnids = [f"n{number:08}" for number in range(1000)]
    (tmp_path / "classes.txt").write_text("\n".join(wnids))
    for name in ("7", "999", "12"):
        paint(tmp_path / "v2" / name / "a.png", 5)
    data = ImageNet(shifted={"v2": "v2"}, data_dir=str(tmp_path), classes=str(tmp_path / "classes.txt"), **SMALL)
    assert sorted(data.shifted_tests()["v2"].label.tolist()) == [7, 12, 999]
    paint(tmp_path / "v2" / "1000" / "a.png", 5)
    with pytest.raises(ValueError, match="holds a folder 1000, and classes are numbered"):
        data.shifted_tests()


def test_names_of_their_own_are_translated(tmp_path: Path) -> None:
    root = imagenet(tmp_path, objectnet=["chair", "desk lamp", "spoon"])
    (root / "map.txt").write_text("n09 chair\nn02 desk lamp\n")
    assert read_class_map(root / "map.txt") == {"chair": "n09", "desk lamp": "n02"}
    data = ImageNet(str(root), 4, shifted={"objectnet": "objectnet"}, class_maps={"objectnet": "map.txt"}, **SMALL)
    source = data.shifted_tests()["objectnet"]
    assert source.label.tolist() == [3, 1]
    assert reds(data, source) == [0, 10]
    assert source.classes.tolist() == [1, 3]


def test_what_is_wrong_with_a_shifted_set_is_named(tmp_path: Path) -> None:
    root = imagenet(tmp_path, own=["chair"], v2=["0"], other=["n07"])

    def read(**options: Any) -> None:
        ImageNet(data_dir=str(root), classes=4, **options, **SMALL).shifted_tests()

    with pytest.raises(ValueError, match="holds a folder chair, which is no wnid; give the set a map"):
        read(shifted={"own": "own"})
    with pytest.raises(ValueError, match=r"numbers its folders among 1,000 classes, and classes leaves 4"):
        read(shifted={"v2": "v2"})
    with pytest.raises(ValueError, match="holds none of the 4 classes"):
        read(shifted={"other": "other"})
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        read(shifted={"x": "nowhere"})
    with pytest.raises(ValueError, match="class_maps names y, and shifted has x"):
        read(shifted={"x": "own"}, class_maps={"y": "map.txt"})
    with pytest.raises(FileNotFoundError, match=r"class_maps: .*map\.txt does not exist"):
        read(shifted={"own": "own"}, class_maps={"own": "map.txt"})
    (root / "map.txt").write_text("n01 chair\nn02 chair\n")
    with pytest.raises(ValueError, match="line 2: expected a wnid and a folder that is listed once"):
        read(shifted={"own": "own"}, class_maps={"own": "map.txt"})


# a user's own folders


CLASSES = ("cat", "dog", "emu")


@pytest.fixture
def own_folders(tmp_path: Path) -> Path:
    """Red is 100 * class, but in `photos` of the next class; `sketches` has no cats, and a dog that is like one."""
    for label, name in enumerate(CLASSES):
        for split in ("train", "test"):
            paint(tmp_path / "own" / split / name / "a.png", 100 * label)
        paint(tmp_path / "own" / "photos" / name / "a.png", 100 * ((label + 1) % 3))
    for name, reds_of in {"dog": (0, 100), "emu": (200, 100, 200)}.items():
        for number, red in enumerate(reds_of):
            paint(tmp_path / "sketches" / name / f"{number}.png", red)
    return tmp_path


def own(root: Path, **sets: str) -> Any:
    return ImageFolder(str(root / "own"), shifted=sets, **SMALL)


def test_folders_of_classes_are_shifted_sets_with_the_labels_of_the_training_images(own_folders: Path) -> None:
    data = own(own_folders, photos="photos", sketches=str(own_folders / "sketches"))
    shifted = data.shifted_tests()
    assert list(shifted) == ["photos", "sketches"]
    assert (reds(data, shifted["photos"]), shifted["photos"].label.tolist()) == ([100, 200, 0], [0, 1, 2])
    assert shifted["photos"].classes is None
    assert shifted["sketches"].label.tolist() == [1, 1, 2, 2, 2]
    assert shifted["sketches"].classes.tolist() == [1, 2]


def test_what_is_wrong_with_a_users_shifted_set_is_told_before_the_first_step(own_folders: Path) -> None:
    def fit(folder: str) -> None:
        Trainer(callbacks=[ShiftedAccuracy()], **QUIET).fit(
            Unused(), datamodule=LabelledImages(own(own_folders, x=folder), 2, num_workers=0)
        )

    with pytest.raises(FileNotFoundError, match=r"own/nowhere does not exist; expected .*nowhere/<class>/<image>"):
        fit("nowhere")
    (own_folders / "sketches" / "cat").mkdir()
    with pytest.raises(FileNotFoundError, match=r"sketches/cat holds no image"):
        fit("../sketches")
    for name in ("fox", "gnu"):
        paint(own_folders / "sketches" / name / "a.png", 0)
    with pytest.raises(ValueError, match=r"sketches holds folders that are no class of .*own/train: fox, gnu"):
        fit("../sketches")
    data = LabelledImages(ImageFolder(str(own_folders / "own"), **SMALL), 2)
    with pytest.raises(ValueError, match="ImageFolder is given no shifted test set"):
        Trainer(callbacks=[ShiftedAccuracy()], **QUIET).fit(Unused(), datamodule=data)


@pytest.mark.parametrize("through_a_cache", [False, True])
def test_a_users_shifted_sets_are_tested_on_after_training(own_folders: Path, through_a_cache: bool) -> None:
    images = own(own_folders, photos="photos", sketches="../sketches")
    if through_a_cache:
        images = CachedFeatures(images, torch.nn.Flatten(), 768, cache_dir=str(own_folders / "cache"), num_workers=0)
    data = LabelledImages(images, 2, num_workers=0)
    module, trainer = ByRed(), Trainer(max_epochs=1, callbacks=[ShiftedAccuracy()], **QUIET)
    trainer.fit(module, datamodule=data)
    (metrics,) = trainer.test(module, datamodule=data, verbose=False)
    assert metrics["test/accuracy"] == 1
    assert metrics["test/accuracy_photos"] == 0
    assert metrics["test/accuracy_sketches"] == pytest.approx(4 / 5)  # the dog like a cat is none, as no sketch is
    assert metrics["test/ood_accuracy"] == pytest.approx(2 / 5)


# digits, and the accuracy


def test_moved_digits_are_the_test_images_moved_by_a_pixel_with_noise_and_the_same_for_all_seeds() -> None:
    data = TuningDigits()
    test, moved = data.test(), data.shifted_tests()["moved_noisy"]
    assert torch.equal(moved.label, test.label)
    assert torch.equal(moved.fetch(torch.arange(797), None), TuningDigits().shifted_tests()["moved_noisy"].image)
    image, other = test.image.float() / 16, moved.fetch(torch.arange(797), None).float() / 16
    residual = torch.stack(
        [
            (other - torch.nn.functional.pad(image, [1 + r, 1 - r, 1 + d, 1 - d])[:, :, 1:-1, 1:-1])[:, 0, 2:-2, 2:-2]
            .square()
            .mean(dim=(1, 2))
            for d in (-1, 0, 1)
            for r in (-1, 0, 1)
        ]
    )
    best = residual.argmin(dim=0)  # of the nine moves; the odd ones are along one axis
    assert (best % 2 == 1).float().mean() > 0.95
    assert all((best == move).float().mean() > 0.2 for move in (1, 3, 5, 7))
    assert 0.02 < residual.min(dim=0).values.mean() < 0.04  # 0.2 squared, less what is clipped


class Known(LightningModule):
    """Classifies an image by its pixels: pixel k is the logit of class k."""

    num_classes = 4

    def __init__(self) -> None:
        super().__init__()
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def forward(self, image: Tensor) -> Tensor:
        return image.flatten(1) + 0 * self.nothing

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None: ...


class ByRed(Known):
    """Classifies an image, or its pixels in one row, by how red it is: 100 for each class."""

    def forward(self, image: Tensor) -> Tensor:
        red = 255 * image.flatten(1)[:, :1]
        return -(red - torch.tensor([0.0, 100.0, 200.0])).abs() + 0 * self.nothing

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self(batch["image"]).sum()

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("test/accuracy", (self(batch["image"]).argmax(dim=1) == batch["label"]).double().mean())


class Pixels(ImageSet):
    """Sets of 7 and 5 images, of which 3 and 4 are right, the second with the classes 1 and 3 alone."""

    num_classes = 4
    image_shape = (1, 2, 2)

    def training(self) -> ImagesInMemory:
        return self.test()

    def test(self) -> ImagesInMemory:
        return ImagesInMemory(torch.zeros(6, 1, 2, 2, dtype=torch.uint8), torch.zeros(6, dtype=torch.int64))

    def shifted_tests(self) -> dict[str, ImageSource]:
        first = ImagesInMemory(self.pixels([2, 2, 2, 0, 0, 0, 0]), torch.full((7,), 2))
        # 200 at pixel 0 always: without the restriction every prediction would be 0.
        image = self.pixels([1, 3, 1, 1, 3])
        image[:, 0, 0, 0] = 200
        second = ImagesInMemory(image, torch.tensor([1, 3, 1, 3, 3]))
        second.classes = torch.tensor([1, 3])
        return {"first": first, "second": second}

    @staticmethod
    def pixels(brightest: list[int]) -> Tensor:
        return (100 * torch.nn.functional.one_hot(torch.tensor(brightest), 4)).to(torch.uint8).view(-1, 1, 2, 2)


@pytest.mark.parametrize("processes", [1, 2])
def test_accuracy_counts_every_image_once_and_predicts_among_the_classes_of_a_set(
    processes: int, tmp_path: Path
) -> None:
    strategy = "ddp_fork" if processes > 1 else "auto"
    trainer = Trainer(
        devices=processes, strategy=strategy, callbacks=[ShiftedAccuracy()], default_root_dir=tmp_path, **QUIET
    )
    (metrics,) = trainer.test(Known(), datamodule=LabelledImages(Pixels(), batch_size=3), verbose=False)
    assert metrics["test/accuracy_first"] == pytest.approx(3 / 7)
    assert metrics["test/accuracy_second"] == pytest.approx(4 / 5)
    assert metrics["test/ood_accuracy"] == pytest.approx((3 / 7 + 4 / 5) / 2)


def test_cached_features_hand_on_shifted_sets_and_their_classes(tmp_path: Path) -> None:
    images = CachedFeatures(Pixels(), torch.nn.Flatten(), num_features=4, cache_dir=str(tmp_path))
    data = LabelledImages(images, batch_size=3)
    trainer = Trainer(callbacks=[ShiftedAccuracy()], **QUIET)
    (metrics,) = trainer.test(Known(), datamodule=data, verbose=False)
    assert metrics["test/accuracy_first"] == pytest.approx(3 / 7)
    assert metrics["test/accuracy_second"] == pytest.approx(4 / 5)


class Unused(Known):
    """Is neither trained nor tested."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        pytest.fail("was trained")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        pytest.fail("was tested")


@pytest.mark.parametrize("stage", ["fit", "test"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"shifted": {"r": "imagenet-rr"}}, "imagenet-rr does not exist"),
        ({"shifted": {"r": "r"}, "class_maps": {"r": "map.txt"}}, r"class_maps: .*map\.txt does not exist"),
        ({"shifted": {"own": "own"}}, "give the set a map"),
    ],
)
def test_what_is_wrong_with_a_shifted_set_is_told_before_the_first_step(
    stage: str, options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    root = imagenet(tmp_path / "sets", r=["n02"], own=["chair"])
    data: Any = ImageNet(data_dir=str(root), classes=4, **options, **SMALL)
    through_a_cache = CachedFeatures(data, torch.nn.Flatten(), 768, cache_dir=str(tmp_path / "cache"))
    for each in (data, through_a_cache):
        with pytest.raises((FileNotFoundError, ValueError), match=said):
            getattr(Trainer(callbacks=[ShiftedAccuracy()], **QUIET), stage)(Unused(), datamodule=LabelledImages(each))


def test_a_missing_list_of_domain_net_is_told_before_the_first_step(domain_net: Path) -> None:
    data = LabelledImages(DomainNet(str(domain_net), "real", ["infograph"], **SMALL))
    with pytest.raises(FileNotFoundError, match=r"found no infograph_test\.txt"):
        Trainer(callbacks=[ShiftedAccuracy()], **QUIET).fit(Unused(), datamodule=data)


@pytest.mark.parametrize("split", ["train", "test"])
def test_lists_of_domain_net_without_the_images_are_told_before_the_first_step(domain_net: Path, split: str) -> None:
    image = domain_net / f"domain_net/clipart/aircraft_carrier/clipart_{0 if split == 'train' else 2}.png"
    image.unlink()
    own = split == "train"
    images = DomainNet(str(domain_net), *("clipart", ["real"]) if own else ("real", ["clipart"]), **SMALL)
    data = LabelledImages(images)
    with pytest.raises(FileNotFoundError, match=rf"{image.name} does not exist; .*clipart_{split}\.txt names it"):
        Trainer(callbacks=[ShiftedAccuracy()], **QUIET).fit(Unused(), datamodule=data)


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_no_shifted_set_is_refused(stage: str, domain_net: Path, tmp_path: Path) -> None:
    none: Any = DomainNet(str(domain_net), test_domains=[], **SMALL)
    for data, said in (
        (none, "DomainNet is given no shifted test set"),
        (
            CachedFeatures(none, torch.nn.Flatten(), 768, cache_dir=str(tmp_path)),
            "CachedFeatures is given no shifted test",
        ),
    ):
        with pytest.raises(ValueError, match=said):
            getattr(Trainer(callbacks=[ShiftedAccuracy()], **QUIET), stage)(Unused(), datamodule=LabelledImages(data))


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_a_datamodule_without_shifted_sets_is_refused(stage: str) -> None:
    lacks = "LightningDataModule lacks check_shifted_tests, shifted_test_loaders"
    with pytest.raises(TypeError, match=f"ShiftedAccuracy needs a ShiftedTestSets, and {lacks}"):
        getattr(Trainer(callbacks=[ShiftedAccuracy()], **QUIET), stage)(Unused(), datamodule=LightningDataModule())
