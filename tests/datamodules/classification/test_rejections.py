import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from datamodules.classification.clustered import Clustered
from datamodules.classification.digits import Digits
from datamodules.classification.folder_sets import ImageFolder, UnlabelledFolder
from datamodules.classification.mnist import MedMNIST
from datamodules.classification.ood_images import ImagesInFolder, OtherDigits, UniformNoise
from datamodules.classification.svhn import SVHN
from tests.datamodules.classification.rejected import (
    Empty,
    Mislabelled,
    a_file,
    beside_digits,
    clothing,
    cut_labels,
    domains,
    empty,
    enlarge_a_label,
    enlarge_labels,
    harmed,
    images,
    images_beside_classes,
    images_of_several_sizes,
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
    replace_image,
    scaled,
    shifted,
    shifted_imagenet,
    sketches,
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
from tests.datamodules.classification.shifted import SMALL
from tests.datamodules.classification.test_cached_features import cached
from tests.datamodules.classification.test_cifar import SETS
from tests.datamodules.classification.test_folder_sets import folder_of_classes
from tests.datamodules.classification.test_image_folder_shifted import shifted_folders
from tests.rejections import Row, rejections

# fmt: off
REJECTED: list[Row] = [
    ("CachedFeatures features", lambda root: cached(root, num_features=17).training(), ValueError,
     r"num_features is 17, but the encoder returns features of shape \[16\] for an image"),
    ("CachedFeatures maps", lambda root: cached(root, nn.Conv2d(1, 16, 3)).training(), ValueError,
     r"num_features is 16, but the encoder returns features of shape \[16, 6, 6\]"),
    ("CachedFeatures too great", lambda root: cached(root, scaled(1e6), dtype="float16").training(), ValueError,
     "NaN, infinite or too large for float16"),
    ("CachedFeatures undefined", lambda root: cached(root, scaled(float("nan"))).training(), ValueError,
     "NaN, infinite or too large for float32"),
    *[
        (
            f"{kind.__name__} missing",
            lambda root, kind=kind: kind(str(root)).training(),
            FileNotFoundError,
            rf"{kind.name}: found neither \S+/{kind.archive} .* nor train-\*\.parquet .*download to true",
        )
        for kind in SETS
    ],
    ("CIFAR10 torn layout of torchvision", torn_torchvision_layout, FileNotFoundError,
     r"cifar-10-batches-py \(torchvision's layout, complete and undamaged\)"),
    *[
        (
            f"CIFAR10 table {harm.__name__}",
            parquet(harm),
            ValueError,
            r"train-00000-of-00002\.parquet is damaged or lacks the columns img, label",
        )
        for harm in (truncate, rename_column, replace_image, enlarge_labels, empty)
    ],
    ("CIFAR10 sizes", images_of_several_sizes, ValueError, r"tables has images of 2 sizes, expected one"),
    ("CIFAR10 label", parquet(enlarge_a_label), ValueError,
     r"labels of the training set are in 0\.\.\.10, but num_classes 10"),
    ("Clothing1M label", clothing(cut_labels), ValueError,
     r"noisy_label_kv\.txt has no label for an image of noisy_train: 'images/"),
    ("Clothing1M labels missing", clothing(lambda root: (root / "annotations" / "noisy_label_kv.txt").unlink()),
     FileNotFoundError, r"annotations/noisy_label_kv\.txt does not exist; request the set"),
    ("Clothing1M images missing", clothing(rename("images", "pictures"), "test"), FileNotFoundError,
     r"images/c/2\.jpg does not exist; extract the image archives"),
    ("DomainNet list", lambda root: domains(test_domains=["infograph"])(root).ood_test_sets(), FileNotFoundError,
     r"found no infograph_test\.txt"),
    ("DomainNet domain", domains("photo"), ValueError, "unknown domain photo; DomainNet has clipart"),
    ("DomainNet test_domains", domains("real", ["real"]), ValueError,
     "test_domains must be distinct domains out of clipart"),
    ("DomainNet label", listed("clipart/ambulance/clipart_0.png 0"), ValueError,
     "has label 0, which other files give to the class aircraft_carrier"),
    ("DomainNet line without label", listed("clipart/ambulance/clipart_0.png"), ValueError,
     "line 1: expected <file> <label>"),
    ("DomainNet line with a word", listed("a.png x"), ValueError, "line 1: expected <file> <label>"),
    ("DomainNet line empty", listed(""), ValueError, "line 1: expected <file> <label>"),
    ("DomainNet list before training", shifted(domains("real", ["infograph"])), FileNotFoundError,
     r"found no infograph_test\.txt"),
    ("DomainNet own image", shifted(domains("clipart", ["real"], harm=without_image(0))), FileNotFoundError,
     r"clipart_0.png does not exist, but .*clipart_train\.txt lists it"),
    ("DomainNet shifted image", shifted(domains("real", ["clipart"], harm=without_image(2))), FileNotFoundError,
     r"clipart_2.png does not exist, but .*clipart_test\.txt lists it"),
    *[
        row
        for stage in ("fit", "test")
        for row in (
            (
                f"DomainNet without shifted sets {stage}",
                shifted(domains(test_domains=[]), stage),
                ValueError,
                "DomainNet has no shifted test set",
            ),
            (
                f"CachedFeatures without shifted sets {stage}",
                shifted(through_a_cache(domains(test_domains=[])), stage),
                ValueError,
                "CachedFeatures has no shifted test",
            ),
        )
    ],
    ("ImageFolder train", own_images(rename("train", "t")), FileNotFoundError,
     "train does not exist; expected .*<image>"),
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
    ("ImageFolder file", own_images(a_file), NotADirectoryError, "data_dir .*images is a file"),
    ("ImageFolder missing", own_images(shutil.rmtree), FileNotFoundError, "data_dir .*images does not exist"),
    ("ImageFolder split", harmed(folder_of_classes, nothing, lambda root: ImageFolder(str(root / "train"))),
     FileNotFoundError, r"did you mean the folder above, \S+/images[?]$"),
    ("ImageFolder no train", own_images(lambda root: (root / "train").rename(root / "cats")), FileNotFoundError,
     r"train does not exist; expected .*; move the folders of the classes, such as cats, into \S+/train$"),
    ("UnlabelledFolder empty", lambda root: UnlabelledFolder(str(root)), FileNotFoundError,
     r"data_dir: .* holds no image"),
    ("NewImages missing", new_images("nowhere", Digits()), FileNotFoundError,
     "predict_dir: .*nowhere does not exist; give a file, a folder"),
    ("NewImages empty", new_images("empty", Digits()), FileNotFoundError,
     "empty holds no image; expected files that end with .avif"),
    ("NewImages of points", new_images("one", Clustered()), ValueError,
     "predict_dir reads square images in grey or colour, but the images of Clustered"),
    ("ImageFolder shifted missing", sketches("nowhere"), FileNotFoundError,
     r"own/nowhere does not exist; expected .*nowhere/<class>/<image>"),
    ("ImageFolder shifted empty class", sketches(empty="cat"), FileNotFoundError, r"sketches/cat holds no image"),
    ("ImageFolder shifted classes", sketches(more=("fox", "gnu")), ValueError,
     r"sketches has folders that are not classes of .*own/train: fox, gnu"),
    ("ImageFolder without shifted sets",
     shifted(lambda root: ImageFolder(str(shifted_folders(root) / "own"), **SMALL)), ValueError,
     "ImageFolder has no shifted test set"),
    ("ImageNet all classes", of_imagenet_folders(None), ValueError,
     r"has 4 class folders, but classes None needs 1000"),
    ("ImageNet five classes", of_imagenet_folders(5), ValueError, "but classes 5 needs 5"),
    ("ImageNet no classes", of_imagenet_folders(0), ValueError, r"classes must be a number in 1\.\.\.1000"),
    ("ImageNet without folders", of_imagenet_folders(2, "test", images_beside_classes), FileNotFoundError,
     r"val holds no folder; expected .*one folder for each class"),
    ("ImageNet missing", of_imagenet_folders(2, inside="val"), FileNotFoundError,
     r"found no train/<wnid> in .* or its subfolder imagenet"),
    ("ImageNet shifted name", shifted_imagenet({"own": "own"}), ValueError,
     "holds a folder chair, which is not a wnid; map its folders"),
    ("ImageNet shifted number", shifted_imagenet({"v2": "v2"}), ValueError,
     "has numbered folders, which require all 1,000 classes, but classes selects 4"),
    ("ImageNet shifted classes", shifted_imagenet({"other": "other"}), ValueError, "holds none of the 4 classes"),
    ("ImageNet shifted missing", shifted_imagenet({"x": "nowhere"}), FileNotFoundError, "nowhere does not exist"),
    ("ImageNet class_maps names", shifted_imagenet({"x": "own"}, class_maps={"y": "m"}), ValueError,
     "class_maps has the key y, but shifted only has x"),
    ("ImageNet class_maps missing", shifted_imagenet({"x": "own"}, class_maps={"x": "m"}), FileNotFoundError,
     r"class_maps: .*m does not exist"),
    ("ImageNet class_maps line", shifted_imagenet({"x": "own"}, class_maps={"x": "two"}), ValueError,
     "line 2: expected a wnid and a folder"),
    *[
        (
            f"ImageNet {name} before {stage}{' through a cache' * (data is not own)}",
            shifted(data, stage),
            error,
            message,
        )
        for name, own, error, message in (
            ("shifted", of_imagenet({"r": "imagenet-rr"}), FileNotFoundError, "imagenet-rr does not exist"),
            (
                "class_maps",
                of_imagenet({"r": "r"}, class_maps={"r": "map.txt"}),
                FileNotFoundError,
                r"class_maps: .*map\.txt does not exist",
            ),
            ("shifted name", of_imagenet({"own": "own"}), ValueError, "map its folders in class_maps"),
        )
        for data in (own, through_a_cache(own))
        for stage in ("fit", "test")
    ],
    ("LabelledImages validation_fraction 0.97", images(validation_fraction=0.97), ValueError,
     r"validation_fraction 0\.97 leaves 0 of 40 training images"),
    ("LabelledImages labels", images(images=Mislabelled()), ValueError,
     r"labels of the training set are in 0\.\.\.3, but num_classes 3 allows only 0\.\.\.2"),
    ("LabelledImages empty", images(images=Empty()), ValueError, "the training set is empty"),
    ("MedMNIST missing", lambda root: MedMNIST("absent", 2, str(root)).test(), FileNotFoundError,
     r"absent/absent.npz does not exist; download the set's file"),
    ("MedMNIST labels", medmnist("test", test_labels=np.zeros((4, 2), dtype=np.uint8)), ValueError,
     r"has labels \[4, 2\], expected \[4, 1\]: one per image"),
    ("MedMNIST colours", medmnist("training", channels=3), ValueError,
     r"has images \[1, 28, 28\] of torch.uint8, expected \[3, 28, 28\]"),
    ("MedMNIST damaged", medmnist("test", write("small.npz", b"PK\x03\x04 no archive")), ValueError,
     "is damaged or lacks test_images or test_labels"),
    ("OutOfDistribution none", beside_digits(), ValueError, "ood must name at least one set"),
    ("OutOfDistribution name", beside_digits(in_distribution=UniformNoise(3)), ValueError,
     "and not be in_distribution; got 'in_distribution'"),
    ("OutOfDistribution slash", beside_digits(**{"a/b": UniformNoise(3)}), ValueError, "got 'a/b'"),
    ("OutOfDistribution shape", beside_digits(x=lambda root: SVHN(str(root))), ValueError,
     r"ood.x: SVHN has images \[3, 32, 32\], but in-distribution images are"),
    ("OutOfDistribution colour", beside_digits(x=lambda root: ImagesInFolder("LSUN_resize", str(root))), ValueError,
     r"ood.x: LSUN_resize: .* square RGB images"),
    ("ImagesInFolder missing", no_images(""), FileNotFoundError,
     r"LSUN_resize does not exist; expected .*set data_dir to the folder"),
    ("ImagesInFolder empty", no_images("LSUN_resize"), FileNotFoundError,
     r"has no image; expected files that end with \.avif"),
    ("OtherDigits digits", lambda _: OtherDigits([10]), ValueError,
     r"digits must list some of the digits 0\.\.\.9, got \[10\]"),
    ("SVHN missing", svhn(), FileNotFoundError, r"found test_32x32.mat neither in .*; set data_dir"),
    ("SVHN torn", svhn(b"torn"), ValueError, r"test_32x32.mat is damaged or not an SVHN file"),
    ("SVHN labels", svhn({"X": np.zeros((32, 32, 3, 4), np.uint8), "y": np.ones((3, 1), np.uint8)}), ValueError,
     r"\[4, 3, 32, 32\] and 3 labels"),
    ("WebVision line", webvision(write("info/val_filelist.txt", "val000000.jpg 0\nval000001.jpg\n"), "test"),
     ValueError, r"val_filelist\.txt, line 2: expected <file> <label>, got 'val"),
    ("WebVision images missing", webvision(rename("google", "images"), "fit"), FileNotFoundError,
     r"google/q0000/0\.jpg does not exist, but .*train_filelist_google"),
    ("WebVision lists missing", webvision(rename("info", "lists"), "fit"), FileNotFoundError,
     r"info/train_filelist_google\.txt does not exist; download"),
    ("WebVision ImageNet missing", webvision(rename("imagenet", "lists"), "test", test_on="imagenet"),
     FileNotFoundError, r"ImageNet: found no val/<wnid>"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
