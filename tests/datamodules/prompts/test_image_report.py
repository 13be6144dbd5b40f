from pathlib import Path
from typing import Any

import torch

from datamodules.classification.digits import Digits
from datamodules.loading import Loading
from datamodules.prompts.buckets import Buckets
from datamodules.prompts.captioned_images import CaptionedImages
from datamodules.prompts.captioned_set import CaptionedClasses, CaptionedRows
from datamodules.prompts.folder_sets import CaptionedFolder
from datamodules.prompts.image_report import report_images
from datamodules.prompts.several_sets import SeveralSets, WeightedSet
from tests.datamodules.image_folders import photograph, save


def test_the_report_counts_what_is_computed_by_hand(tmp_path: Path) -> None:
    for name, size, seed, text in (
        ("a", (40, 20), 0, "cat"),  # resized to 32 x 16, cropped to 32 x 16 or, as a square, to 16 x 16
        ("b", (20, 20), 1, "cat"),
        ("c", (8, 10), 2, " "),  # enlarged 2 times to 16 x 20, cropped to 16 x 16
        ("d", (20, 20), 1, "dog"),  # the file b
    ):
        save(tmp_path / "images" / f"{name}.png", photograph(*size, seed))
        (tmp_path / "images" / f"{name}.txt").write_text(text)
    folder = str(tmp_path / "images")
    bucketed: Any = CaptionedFolder(folder, image_size=24, buckets=Buckets(8))
    square = CaptionedFolder(folder, image_size=16)
    data = CaptionedImages(square, loading=Loading(num_workers=0))
    data.setup("fit")
    lost = (0.5 + 0 + 1 - 256 / 320 + 0) / 4
    assert data.describe() == [
        ["16 x 16 pixels", "4 of 4 images, 4 of 4 samples of an epoch"],
        ["upscaled", "1 of 4: c.png by 2.00"],
        ["cropped away", f"{lost:.1%} of the pixels, most of a.png: 50.0%"],
        ["duplicates", "1 of 4: d.png = b.png"],
        ["captions", "3 different captions of 4 images"],
        ["empty captions", "1 of 4: c.png"],
    ]
    both = CaptionedImages(SeveralSets([WeightedSet(square, repeats=5), WeightedSet(bucketed)]))
    both.setup("fit")
    found = dict(both.describe())
    assert found["16 x 16 pixels"] == "4 of 8 images, 20 of 24 samples of an epoch"
    sizes = {"32 x 16 pixels": 1, "24 x 24 pixels": 3}  # the ratio 0.8 is nearer to 1 than to 0.5
    assert {key: found[key] for key in sizes} == {
        key: f"{count} of 8 images, {count} of 24 samples of an epoch" for key, count in sizes.items()
    }
    assert found["duplicates"] == f"1 of 4: {folder}/d.png = {folder}/b.png"  # an image in two sizes is no duplicate
    assert found["upscaled"].startswith(
        f"4 of 8: {folder}/c.png by 3.00, {folder}/c.png by 2.00, {folder}/b.png by 1.20"
    )


def test_images_in_memory_have_no_report() -> None:
    captioned = CaptionedClasses(Digits(train_size=4)).training()
    assert report_images(CaptionedRows(captioned, torch.arange(4))) == []
