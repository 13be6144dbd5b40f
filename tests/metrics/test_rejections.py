from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.metrics.image_quality import ssim
from lightning_modules.metrics.wasserstein import wasserstein
from tests.rejections import Row, rejections


def samples_that_cannot_be_matched(sizes: tuple[int, int]) -> object:
    return wasserstein(torch.zeros(sizes[0], 1), torch.zeros(sizes[1], 1))


# fmt: off
REJECTED: list[Row] = [
    ("ssim", lambda _: ssim(torch.zeros(1, 1, 10, 20), torch.zeros(1, 1, 10, 20)), ValueError,
     r"at least 11 pixels per side.*10, 20"),
    ("samples that cannot be matched 1", lambda _: samples_that_cannot_be_matched((3, 4)), ValueError, "got 3 and 4"),
    ("samples that cannot be matched 2", lambda _: samples_that_cannot_be_matched((1501, 1501)), ValueError,
     "got 1501 and 1501"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
