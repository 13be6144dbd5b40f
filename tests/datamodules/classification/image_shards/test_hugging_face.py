"""Images read by `datasets` equal the files: from a saved dataset, a folder and the Hub. No code in them is run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.classification.folder_sets import ImageFolder
from datamodules.classification.image_shards import HuggingFaceImages
from tests.datamodules.image_folders import photograph, save

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write eight training and four test images of two classes."""
    for split, count in (("train", 4), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            for number in range(count):
                picture = photograph(20 + number, 24, 10 * label + number)
                save(tmp_path / "images" / split / name / f"{number}.png", picture)
    return tmp_path / "images"


def saved(folder: Path, target: Path) -> Path:
    """Save the images of the folder as a Hugging Face dataset."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    splits = {}
    for split in ("train", "test"):
        files = sorted((folder / split).rglob("*.png"))
        rows = [{"bytes": file.read_bytes(), "path": None} for file in files]
        label = [int(file.parent.name == "dog") for file in files]
        splits[split] = datasets.Dataset.from_dict({"image": rows, "label": label}, features=features)
    datasets.DatasetDict(splits).save_to_disk(str(target))
    return target


@pytest.mark.parametrize("kind", ["saved", "imagefolder"])
def test_images_labels_and_names_are_those_of_the_files(kind: str, folder: Path, tmp_path: Path) -> None:
    path = saved(folder, tmp_path / "saved") if kind == "saved" else folder
    images = HuggingFaceImages(str(path), num_classes=2, image_size=16)
    expected = ImageFolder(str(folder), image_size=16)
    row = torch.tensor([5, 0, 2])
    for found, wanted in ((images.training(), expected.training()), (images.test(), expected.test())):
        assert torch.equal(found.label, wanted.label)
        uniform = torch.rand(2, found.num_uniform, generator=torch.Generator().manual_seed(0))
        assert torch.equal(found.fetch(torch.tensor([3, 0]), None), wanted.fetch(torch.tensor([3, 0]), None))
        assert torch.equal(found.fetch(torch.tensor([3, 0]), uniform), wanted.fetch(torch.tensor([3, 0]), uniform))
    assert images.class_names == ["cat", "dog"]
    assert images.training().fetch(row, None).shape == (3, 3, 16, 16)
    assert images.training().names[-1] == "train/7"
    assert images.validation() is None


def test_a_dataset_that_is_not_there_is_one_sentence_offline() -> None:
    for name in ("nobody/nothing", "nothing"):
        with pytest.raises((FileNotFoundError, ValueError), match=rf"{name} ") as raised:
            HuggingFaceImages(name, 10).training()
        assert "\n" not in str(raised.value)
    with pytest.raises(FileNotFoundError, match=r"\./nowhere is not a folder, and not the name of a dataset"):
        HuggingFaceImages("./nowhere", 10).training()


@pytest.mark.parametrize("name", ["pandas", "sql", "csv"])
def test_a_builder_of_other_files_is_not_used(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is a builder, not a dataset, and would read any files"):
        HuggingFaceImages(name, 10).training()


def test_a_name_on_the_hub_is_read_by_a_builder_of_images(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    own = datasets.load_dataset_builder

    def on_the_hub(name: str, config: str | None = None, **options: Any) -> Any:
        asked.append((name, config, options))
        other = {"path": "imagefolder", "data_dir": str(folder)}
        return own(**(other if name == "me/cats" else {"path": "csv", "data_files": str(folder / "x.csv")}))

    (folder / "x.csv").write_text("image,label\nx,0\n")
    monkeypatch.setattr(datasets, "load_dataset_builder", on_the_hub)
    images = HuggingFaceImages("me/cats", 2, config="plain", train="train[:50%]", revision="v1", image_size=8)
    images.fetch_missing()
    assert images.training().label.tolist() == [0] * 4
    assert asked == [("me/cats", "plain", {"revision": "v1"})] * 2
    with pytest.raises(ValueError, match="the dataset me/tables cannot be read: it is read by the builder csv"):
        HuggingFaceImages("me/tables", 2).training()


def test_code_and_addresses_in_a_folder_are_ignored(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "images.py").write_text("raise SystemExit('code of a dataset ran')")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: 'https://example.com/x.parquet'\n---\n"
    )
    assert len(HuggingFaceImages(str(folder), 2, image_size=16).training().label) == 8


def test_a_path_in_a_saved_dataset_is_read_as_a_local_image_alone(tmp_path: Path) -> None:
    (tmp_path / "no_image.txt").write_text("a secret")
    columns = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    features = datasets.Features({"image": columns, "label": datasets.Value("int64")})
    places = ["https://example.com/x.png", str(tmp_path / "no_image.txt")]
    rows = [{"bytes": None, "path": place} for place in places]
    datasets.Dataset.from_dict({"image": rows, "label": [0, 0]}, features=features).save_to_disk(tmp_path / "hostile")
    images = HuggingFaceImages(str(tmp_path / "hostile"), 1, image_size=8).training()
    for row, place in enumerate(places):
        with pytest.raises(ValueError, match=f"{place} cannot be read as an image") as raised:
            images.fetch(torch.tensor([row]), None)
        assert "a secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_key": "img"}, "image_key img is not a column; the columns are image, label"),
        ({"image_key": "label"}, "the column label must hold images"),
        ({"label_key": "image"}, "the column image must hold whole numbers"),
        ({"num_classes": 1}, r"row 4 has the label 1, but num_classes 1 allows 0 \.\.\. 0"),
        ({"train": "training"}, "train is training, but the dataset has the splits train, test"),
    ],
)
def test_what_does_not_match_is_named(options: dict[str, Any], message: str, folder: Path, tmp_path: Path) -> None:
    path = saved(folder, tmp_path / "saved")
    with pytest.raises(ValueError, match=message):
        HuggingFaceImages(str(path), **{"num_classes": 2, **options}).training()


def test_a_damaged_saved_dataset_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    path = saved(folder, tmp_path / "saved")
    for name, content in (("dataset_dict.json", "[]"), ("train/state.json", json.dumps({"_data_files": 3}))):
        before = (path / name).read_text()
        (path / name).write_text(content)
        with pytest.raises(ValueError, match=r"the dataset .*saved cannot be read: ") as raised:
            HuggingFaceImages(str(path), 2).training()
        assert "\n" not in str(raised.value)
        (path / name).write_text(before)
