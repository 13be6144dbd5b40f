"""Captioned images from `datasets` equal those of the folder, for a saved dataset and for the folder itself."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.files.image_files import UnreadableImage
from datamodules.loading import Loading
from datamodules.prompts.buckets import Buckets
from datamodules.prompts.captioned_images import CaptionedImages
from datamodules.prompts.folder_sets import CaptionedFolder
from datamodules.prompts.hugging_face import HuggingFaceCaptions
from tests.datamodules.image_folders import photograph, save

datasets = pytest.importorskip("datasets")
TEXTS = [f"caption {number} \N{SNOWMAN}" for number in range(5)]


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write five images of several sizes, with captions in metadata.jsonl."""
    for number in range(5):
        save(tmp_path / "images" / f"{number}.png", photograph(20 + 8 * number, 36, number))
    lines = [json.dumps({"file_name": f"{number}.png", "text": text}) for number, text in enumerate(TEXTS)]
    (tmp_path / "images" / "metadata.jsonl").write_text("\n".join(lines))
    return tmp_path / "images"


def saved(folder: Path, target: Path, **columns: list[Any]) -> str:
    """Save the images of a folder, with captions, as a dataset with one split."""
    rows: list[Any] = [{"bytes": file.read_bytes(), "path": None} for file in sorted(folder.glob("*.png"))]
    table = {"image": rows, "text": TEXTS, **columns}
    kinds = {"image": datasets.Image(), **{key: datasets.Value("string") for key in table if key != "image"}}
    if "number" in table:
        kinds["number"] = datasets.Value("int64")
    datasets.Dataset.from_dict(table, features=datasets.Features(kinds)).save_to_disk(str(target))
    return str(target)


@pytest.mark.parametrize("kind", ["saved", "imagefolder"])
def test_batches_are_those_of_the_folder(kind: str, folder: Path, tmp_path: Path) -> None:
    name = saved(folder, tmp_path / "saved") if kind == "saved" else str(folder)
    options: dict[str, Any] = {"image_size": 16, "resize": 20, "buckets": Buckets(8)}
    own, expected = HuggingFaceCaptions(name, **options), CaptionedFolder(str(folder), **options)
    assert own.has_captions()
    source: Any = own.training().source
    assert [*source.source.encoded()] == [file.read_bytes() for file in sorted(folder.glob("*.png"))]
    batches: list[list[Any]] = []
    for images in (own, expected):
        data = CaptionedImages(images, batch_size=2, loading=Loading(num_workers=0, seed=0))
        data.setup("fit")
        batches.append(list(data.train_dataloader()))
    assert len(batches[0]) == len(batches[1]) > 1
    for found, wanted in zip(*batches, strict=True):
        assert found["caption"] == wanted["caption"]
        for key in ("image", "size_conditions", "index"):
            assert torch.equal(found[key], wanted[key]), key


def test_one_prompt_or_no_captions_need_no_column(folder: Path, tmp_path: Path) -> None:
    name = saved(folder, tmp_path / "saved")
    options: dict[str, Any] = {"image_size": 16}
    one = HuggingFaceCaptions(name, prompt="a photo of sks", caption_column="nothing", **options)
    assert one.training().captions == ["a photo of sks"] * 5
    assert not HuggingFaceCaptions(name, caption_column=None, **options).has_captions()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"caption_column": "caption"}, "caption_column caption is not a column; the columns are image, text, number"),
        ({"caption_column": "number"}, "the column number must contain captions as text, got"),
        ({"caption_column": "gaps"}, r"row 2 has no caption$"),
        ({"image_size": 20, "buckets": Buckets(8)}, r"image_size must be a multiple of buckets\.multiple, 8, got 20"),
    ],
)
def test_what_does_not_match_is_named(options: dict[str, Any], message: str, folder: Path, tmp_path: Path) -> None:
    gaps = ["a", "b", None, "d", None]
    name = saved(folder, tmp_path / "saved", number=[1, 2, 3, 4, 5], gaps=gaps)
    with pytest.raises(ValueError, match=message):
        HuggingFaceCaptions(name, **{"image_size": 16, **options}).has_captions()


def test_an_image_that_cannot_be_read_is_named_before_training(folder: Path, tmp_path: Path) -> None:
    (folder / "3.png").write_bytes(b"no image")
    with pytest.raises(UnreadableImage, match="split train: row 3 cannot be read as an image"):
        HuggingFaceCaptions(saved(folder, tmp_path / "saved"), image_size=16).has_captions()
