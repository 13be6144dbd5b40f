from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from PIL import Image
from torch import Tensor

from callbacks.predictions import WritePredictions
from datamodules.augmentation.crop_and_flip import Augmentation
from datamodules.classification.digits import Digits
from datamodules.classification.folder_sets import ClassFolders, Faces, ImageFolder, NewImages, UnlabelledFolder
from datamodules.classification.labelled_images import LabelledImages
from datamodules.corruptions.label_noise import FromCSV
from datamodules.files.image_files import UnreadableImage
from datamodules.loading import Loading
from lightning_modules.baselines import CrossEntropy
from lightning_modules.networks.convnet import ConvNet
from tests.datamodules.classification.patterns import loaded, ready
from tests.datamodules.image_folders import photograph, save, shades
from tests.datamodules.recorder import in_order, joined, trained
from tests.trainers import quiet


def folder_of_classes(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    shades(root, "train", ["cat", "dog", "emu"], per_class=5)
    shades(root, "val", ["cat", "dog", "emu"], per_class=2)
    shades(root, "test", ["cat", "dog", "emu"], per_class=3)
    return root


own_images = pytest.fixture(folder_of_classes)


def test_a_users_folders_are_trained_validated_and_tested_on(own_images: Path, tmp_path: Path) -> None:
    data = loaded(ImageFolder, str(own_images), batch_size=8, image_size=8, resize=8, num_workers=0)
    assert (data.num_classes, data.class_names, data.image_shape) == (3, ["cat", "dog", "emu"], (3, 8, 8))
    module = trained(data, tmp_path)
    images = joined(module.trained, "image")
    assert images.dtype == torch.float32
    assert len(images) == data.num_train_samples == 15
    torch.testing.assert_close(images[:, 0].mean(dim=(1, 2)) * 255, 10.0 * joined(module.trained, "label"))
    assert sorted(joined(module.trained, "index").tolist()) == list(range(15))
    assert [len(batch["label"]) for batch in module.evaluated] == [6]
    tested = joined([*ready(data, "test").test_dataloader()], "image")
    assert tested[:, 1, 0, 0].mul(255).round().tolist() == [0, 10, 20] * 3
    assert "epoch" not in module.trained[0]


def test_workers_deliver_the_same_images_in_every_epoch(own_images: Path, tmp_path: Path) -> None:
    """Requests contain the epoch, so persistent workers use new crops in each epoch, for any number of workers."""
    for position, path in enumerate(sorted((own_images / "train").rglob("*.png"))):
        photograph(40, 30, seed=position).save(path)

    def images(num_workers: int) -> Tensor:
        sizes = {"batch_size": 5, "image_size": 8, "resize": 8}
        data = loaded(ImageFolder, str(own_images), num_workers=num_workers, seed=1, **sizes)
        batches = trained(data, tmp_path, epochs=2).trained
        half = len(batches) // 2
        return torch.stack([in_order(part, "image").flatten(1) for part in (batches[:half], batches[half:])])

    alone, with_workers = images(0), images(2)
    assert torch.equal(alone, with_workers)
    assert not torch.isclose(alone[0], alone[1]).all(dim=1).any()


def test_a_few_files_of_a_folder_are_labelled_by_name(own_images: Path, tmp_path: Path) -> None:
    table = tmp_path / "corrected.csv"
    table.write_text("name,label\ncat/1.png,dog\n")
    data = loaded(ImageFolder, str(own_images), label_noise=FromCSV(str(table), partial=True), batch_size=5)
    data.setup("fit")
    source: Any = data.train_set.source
    changed = (data.train_set.label != source.label).nonzero().flatten().tolist()
    assert [source.names[at] for at in changed] == ["cat/1.png"]
    assert data.class_names[data.train_set.label[changed[0]]] == "dog"


def test_a_table_without_true_labels_makes_no_folder_the_truth(own_images: Path, tmp_path: Path) -> None:
    sizes = {"batch_size": 2, "image_size": 8, "resize": 8, "num_workers": 0}
    truth = ImageFolder(str(own_images)).training().label
    table, known = tmp_path / "corrected.csv", tmp_path / "known.csv"
    table.write_text("index,label\n" + "".join(f"{i},{i % 2}\n" for i in range(len(truth))))
    known.write_text("index,label,clean_label\n" + "".join(f"{i},0,{true}\n" for i, true in enumerate(truth.tolist())))
    module = trained(loaded(ImageFolder, str(own_images), label_noise=FromCSV(str(table)), **sizes), tmp_path)
    assert all("clean_label" not in batch for batch in module.trained)
    assert (tmp_path / "labels.csv").read_text().splitlines()[0] == "index,label,split,name"
    data = ready(loaded(ImageFolder, str(own_images), label_noise=FromCSV(str(known)), **sizes))
    assert torch.equal(data.train_set.clean_label, truth[data.train_set.row])  # type: ignore[arg-type]


def test_all_images_below_the_folder_are_of_one_class(tmp_path: Path) -> None:
    shades(tmp_path, "any", ["a", "b"], per_class=2)
    source = UnlabelledFolder(str(tmp_path), image_size=16, resize=16).training()
    assert source.names == ["any/a/0.png", "any/a/1.png", "any/b/0.png", "any/b/1.png"]
    assert source.label.tolist() == [0, 0, 0, 0]
    assert source.fetch(torch.arange(4), None)[:, 0, 0, 0].tolist() == [0, 0, 10, 10]


def test_a_folder_is_predicted_with_the_files_names_and_the_classes_that_folders_tell(tmp_path: Path) -> None:
    shades(tmp_path / "own", "train", ["cat", "dog"])
    for name in ("a.png", "b.jpg", "dog/c.png", "cow/d.png"):
        save(tmp_path / "new" / name, photograph(50, 40))
    images = ImageFolder(str(tmp_path / "own"), image_size=16, resize=16)
    data = LabelledImages(images, batch_size=3, predict_dir=str(tmp_path / "new"))
    trainer = quiet(default_root_dir=tmp_path, callbacks=[WritePredictions()])
    module = CrossEntropy(ConvNet(3, [4], 2).eval(), 2)
    trainer.predict(module, data, return_predictions=False)  # without a test set
    table = pd.read_parquet(tmp_path / "predictions.parquet")
    assert table["name"].tolist() == ["a.png", "b.jpg", "cow/d.png", "dog/c.png"]
    assert table["label"].isna().tolist() == [True, True, True, False]
    assert table["label"].iloc[3] == 1
    assert NewImages(str(tmp_path / "new" / "a.png"), images).names == ["a.png"]  # one file is a set of one
    fetched = NewImages(str(tmp_path / "new"), images).fetch(torch.arange(4), None) / 255
    expected = module(fetched).softmax(dim=1).detach().numpy()
    np.testing.assert_allclose(table.filter(like="probability_"), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_images_of_more_than_eight_bits_keep_their_depth_if_white_is_known(name: str, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for level, kind in ((1000, "cat"), (1003, "dog")):  # both are 62 of 255 at a white of 4095
            values = np.full((10, 12), level, dtype=np.uint16)
            path = tmp_path / split / kind / name
            path.parent.mkdir(parents=True)
            tifffile.imwrite(path, values / np.float32(2)) if name == "a.tif" else Image.fromarray(values).save(path)
    white = 4095 / 2 if name == "a.tif" else 4095
    expected = torch.tensor([1000, 1003]) / 4095
    options: dict[str, Any] = {"batch_size": 2, "num_workers": 0, "augmentation": Augmentation(flip=True)}
    data = loaded(ImageFolder, str(tmp_path), image_size=8, resize=8, data_range=white, **options)
    module = trained(data, tmp_path / "run")
    index, seen = joined(module.trained, "index"), joined(module.trained, "image")
    torch.testing.assert_close(seen, expected[index].view(-1, 1, 1, 1).expand(-1, 3, 8, 8))
    new = NewImages(str(tmp_path / "test"), data.images)
    torch.testing.assert_close(new.fetch(torch.arange(2), None)[:, 2, 1, 4] / new.data_range, expected)
    if name == "a.tif":
        with pytest.raises(UnreadableImage, match="floating-point numbers; set data_range of the dataset, or write"):
            ImageFolder(str(tmp_path), image_size=8).test().fetch(torch.arange(2), None)


def test_grey_is_that_of_pillow(tmp_path: Path) -> None:
    image = photograph(8, 8)
    save(tmp_path / "new" / "a.png", image)
    fetched = NewImages(str(tmp_path / "new"), Digits()).fetch(torch.tensor([0]), None)
    assert list(fetched.shape) == [1, 1, 8, 8]
    np.testing.assert_allclose(fetched[0, 0].int(), np.asarray(image.convert("L")).astype(int), atol=1)


@pytest.mark.parametrize("processes", [1, 2])
def test_damaged_files_are_named_at_the_end_and_all_others_are_predicted(tmp_path: Path, processes: int) -> None:
    shades(tmp_path / "own", "train", ["cat", "dog"])
    for name in "abcde":
        save(tmp_path / "new" / f"{name}.png", photograph(20, 20))
    for name in "bd":
        (tmp_path / "new" / f"{name}.png").write_bytes(b"no image")
    images = ImageFolder(str(tmp_path / "own"), image_size=16, resize=16)
    data = LabelledImages(images, batch_size=2, predict_dir=str(tmp_path / "new"), loading=Loading(num_workers=0))
    strategy = "ddp_fork" if processes > 1 else "auto"
    trainer = quiet(
        devices=processes, strategy=strategy, default_root_dir=tmp_path, callbacks=[WritePredictions("csv")]
    )
    expected = r"all images are predicted except 2: .*b\.png cannot be read.*; .*d\.png cannot be read"
    with pytest.raises(Exception, match=expected):
        trainer.predict(CrossEntropy(ConvNet(3, [4], 2), 2), data, return_predictions=False)
    assert pd.read_csv(tmp_path / "predictions.csv")["name"].tolist() == ["a.png", "c.png", "e.png"]
    assert [path.name for path in tmp_path.glob("predictions*")] == ["predictions.csv"]


def folder(root: Path) -> str:
    """Write one training and one validation image for each of two classes."""
    for split in ("train", "val"):
        for name in ("ct", "mr"):
            save(root / "scans" / split / name / "a.png", photograph(40, 30))
    return str(root)


def test_the_number_of_classes_is_known_before_the_files_and_checked_with_them(tmp_path: Path) -> None:
    images = ClassFolders("scans", 2, folder(tmp_path), image_size=16, resize=20)
    assert images.image_shape == (3, 16, 16)
    assert len(images.training().label) == len(images.test().label) == 2
    assert images.class_names == ["ct", "mr"]
    assert images.validation() is None  # `val` is the test set if there is no `test`
    with pytest.raises(ValueError, match=r"num_classes must be 2, the number of classes in .*scans, got 3"):
        ClassFolders("scans", 3, str(tmp_path)).training()
    with pytest.raises(FileNotFoundError, match="absent"):
        ClassFolders("absent", 2, str(tmp_path)).training()


def test_the_last_images_of_any_subfolder_test(tmp_path: Path) -> None:
    for number in range(5):
        file = tmp_path / "ffhq" / f"{number // 2}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), 50 * number, dtype=np.uint8)).save(file)
    faces = Faces("ffhq", str(tmp_path), image_size=8, num_test=2)
    assert faces.image_shape == (3, 8, 8)
    training, test = faces.training(), faces.test()
    assert training.names == ["0/0.png", "0/1.png", "1/2.png"]
    assert test.names == ["1/3.png", "2/4.png"]
    assert test.fetch(torch.tensor([1]), None).unique().tolist() == [200]
    with pytest.raises(ValueError, match="num_test must be less than the 5 images"):
        Faces("ffhq", str(tmp_path), num_test=5).training()
    with pytest.raises(FileNotFoundError, match=r"data_dir: .*celebahq is not a folder"):
        Faces("celebahq", str(tmp_path)).training()
