from pathlib import Path
from typing import Any

import pytest

from datamodules.augmentation.masks import MaskAugmentation
from datamodules.segmentation.mask_sets import MasksInMemory
from datamodules.segmentation.segthor import SegTHOR
from tests.datamodules.segmentation.test_labelled_masks import IMAGE, MASK, blocks
from tests.rejections import Row, rejections

# fmt: off
REJECTED: list[Row] = [
    ("MasksInMemory clean", lambda _: MasksInMemory(IMAGE, MASK, 2, clean=MASK + 2), ValueError,
     r"category 2, but num_classes 2 allows 0\.\.\.1"),
    ("MaskAugmentation", lambda _: blocks(augmentation=MaskAugmentation()).setup("fit"), ValueError,
     "needs images in files, but Blocks reads no files"),
    ("SegTHOR train_patients", lambda _: SegTHOR(train_patients=[1, 27]), ValueError,
     r"train_patients must not include .* got \[27\] in both"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
