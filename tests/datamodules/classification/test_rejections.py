from pathlib import Path
from typing import Any

import pytest

from datamodules.classification.cifar import CIFAR10
from datamodules.classification.clustered import Clustered
from datamodules.classification.digits import Digits
from datamodules.classification.folder_sets import ImageFolder, UnlabelledFolder
from datamodules.classification.mnist import MedMNIST
from datamodules.classification.ood_images import UniformNoise
from datamodules.classification.svhn import SVHN
from tests.datamodules.classification.rejected import (
    Empty,
    Mislabelled,
    beside_digits,
    clothing,
    cut_labels,
    domains,
    enlarge_labels,
    harmed,
    images,
    listed,
    medmnist,
    new_images,
    no_images,
    nothing,
    of_imagenet,
    of_imagenet_folders,
    own_images,
    parquet,
    rename,
    rename_column,
    scaled,
    shifted,
    shifted_imagenet,
    svhn,
    through_a_cache,
    torn_torchvision_layout,
    truncate,
    webvision,
    without_classes,
    without_image,
    without_tests,
    write,
)
from tests.datamodules.classification.test_cached_features import cached
from tests.datamodules.classification.test_folder_sets import folder_of_classes
from tests.rejections import Row, rejections

# fmt: off
REJECTED: list[Row] = [
    ("CachedFeatures features", lambda root: cached(root, num_features=17).training(), ValueError,
     r"num_features is 17, but the encoder returns features of shape \[16\] for an image"),
    ("CachedFeatures too great", lambda root: cached(root, scaled(1e6), dtype="float16").training(), ValueError,
     "NaN, infinite or too large for float16"),
    ("CIFAR10 missing", lambda root: CIFAR10(str(root)).training(), FileNotFoundError,
     rf"{CIFAR10.name}: found neither \S+/{CIFAR10.archive} .* nor train-\*\.parquet .*download to true"),
    ("CIFAR10 torn layout of torchvision", torn_torchvision_layout, FileNotFoundError,
     r"cifar-10-batches-py \(torchvision's layout, complete and undamaged\)"),
    *[
        (
            f"CIFAR10 table {harm.__name__}",
            parquet(harm),
            ValueError,
            r"train-00000-of-00002\.parquet is damaged or lacks the columns img, label",
        )
        for harm in (truncate, rename_column, enlarge_labels)
    ],
    ("Clothing1M label", clothing(cut_labels), ValueError,
     r"noisy_label_kv\.txt has no label for an image of noisy_train: 'images/"),
    ("Clothing1M labels missing", clothing(lambda root: (root / "annotations" / "noisy_label_kv.txt").unlink()),
     FileNotFoundError, r"annotations/noisy_label_kv\.txt does not exist; request the set"),
    ("Clothing1M images missing", clothing(rename("images", "pictures"), "test"), FileNotFoundError,
     r"images/c/2\.jpg does not exist; extract the image archives"),
    ("DomainNet label", listed("clipart/ambulance/clipart_0.png 0"), ValueError,
     "has label 0, which other files give to the class aircraft_carrier"),
    ("DomainNet line without label", listed("clipart/ambulance/clipart_0.png"), ValueError,
     "line 1: expected <file> <label>"),
    ("DomainNet list before training", shifted(domains("real", ["infograph"])), FileNotFoundError,
     r"found no infograph_test\.txt"),
    ("DomainNet shifted image", shifted(domains("real", ["clipart"], harm=without_image(2))), FileNotFoundError,
     r"clipart_2.png does not exist, but .*clipart_test\.txt lists it"),
    ("CachedFeatures without shifted sets", shifted(through_a_cache(domains(test_domains=[]))), ValueError,
     "CachedFeatures has no shifted test"),
    ("ImageFolder empty class", own_images(lambda root: (root / "train" / "fox").mkdir()), FileNotFoundError,
     "train/fox holds no image; expected files that"),
    ("ImageFolder another class", own_images(lambda root: (root / "test" / "fox").mkdir()), ValueError,
     "test has folders that are not classes of .*train: fox"),
    ("ImageFolder class not tested", own_images(rename("test/emu", "emu")), FileNotFoundError,
     "test holds no folder emu"),
    ("ImageFolder without tests", own_images(without_tests), FileNotFoundError,
     "has neither test/<class>/<image> nor val"),
    ("ImageFolder without classes", own_images(without_classes), FileNotFoundError,
     r"train holds no folder; expected .*one folder for each class"),
    ("ImageFolder split", harmed(folder_of_classes, nothing, lambda root: ImageFolder(str(root / "train"))),
     FileNotFoundError, r"did you mean the folder above, \S+/images[?]$"),
    ("ImageFolder no train", own_images(lambda root: (root / "train").rename(root / "cats")), FileNotFoundError,
     r"train does not exist; expected .*; move the folders of the classes, such as cats, into \S+/train$"),
    ("UnlabelledFolder empty", lambda root: UnlabelledFolder(str(root)), FileNotFoundError,
     r"data_dir: .* holds no image"),
    ("NewImages missing", new_images("nowhere", Digits()), FileNotFoundError,
     "predict_dir: .*nowhere does not exist; give a file, a folder"),
    ("NewImages of points", new_images("one", Clustered()), ValueError,
     "predict_dir reads square images in grey or colour, but the images of Clustered"),
    ("ImageNet all classes", of_imagenet_folders(None), ValueError,
     r"has 4 class folders, but classes None needs 1000"),
    ("ImageNet missing", of_imagenet_folders(2, inside="val"), FileNotFoundError,
     r"found no train/<wnid> in .* or its subfolder imagenet"),
    ("ImageNet shifted number", shifted_imagenet({"v2": "v2"}), ValueError,
     "has numbered folders, which require all 1,000 classes, but classes selects 4"),
    ("ImageNet shifted classes", shifted_imagenet({"other": "other"}), ValueError, "holds none of the 4 classes"),
    ("ImageNet class_maps names", shifted_imagenet({"x": "own"}, class_maps={"y": "m"}), ValueError,
     "class_maps has the key y, but shifted only has x"),
    ("ImageNet class_maps missing", shifted_imagenet({"x": "own"}, class_maps={"x": "m"}), FileNotFoundError,
     r"class_maps: .*m does not exist"),
    ("ImageNet class_maps line", shifted_imagenet({"x": "own"}, class_maps={"x": "two"}), ValueError,
     "line 2: expected a wnid and a folder"),
    ("ImageNet shifted missing before training", shifted(of_imagenet({"r": "imagenet-rr"})), FileNotFoundError,
     "imagenet-rr does not exist"),
    ("ImageNet shifted name before testing through a cache",
     shifted(through_a_cache(of_imagenet({"own": "own"})), "test"), ValueError, "map its folders in class_maps"),
    ("LabelledImages validation_fraction 0.97", images(validation_fraction=0.97), ValueError,
     r"validation_fraction 0\.97 leaves 0 of 40 training images"),
    ("LabelledImages labels", images(images=Mislabelled()), ValueError,
     r"labels of the training set are in 0\.\.\.3, but num_classes 3 allows only 0\.\.\.2"),
    ("LabelledImages empty", images(images=Empty()), ValueError, "the training set is empty"),
    ("MedMNIST missing", lambda root: MedMNIST("absent", 2, str(root)).test(), FileNotFoundError,
     r"absent/absent.npz does not exist; download the set's file"),
    ("MedMNIST colours", medmnist("training", channels=3), ValueError,
     r"has images \[1, 28, 28\] of torch.uint8, expected \[3, 28, 28\]"),
    ("MedMNIST damaged", medmnist("test", write("small.npz", b"PK\x03\x04 no archive")), ValueError,
     "is damaged or lacks test_images or test_labels"),
    ("OutOfDistribution name", beside_digits(in_distribution=UniformNoise(3)), ValueError,
     "and not be in_distribution; got 'in_distribution'"),
    ("OutOfDistribution shape", beside_digits(x=lambda root: SVHN(str(root))), ValueError,
     r"ood.x: SVHN has images \[3, 32, 32\], but in-distribution images are"),
    ("ImagesInFolder missing", no_images(""), FileNotFoundError,
     r"LSUN_resize does not exist; expected .*set data_dir to the folder"),
    ("SVHN missing", svhn(), FileNotFoundError, r"found test_32x32.mat neither in .*; set data_dir"),
    ("SVHN torn", svhn(b"torn"), ValueError, r"test_32x32.mat is damaged or not an SVHN file"),
    ("WebVision lists missing", webvision(rename("info", "lists"), "fit"), FileNotFoundError,
     r"info/train_filelist_google\.txt does not exist; download"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
