from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.restoration.negvsr.negatives import Negatives, turned_patches
from tests.rejections import Row, rejections
from tests.restoration.negvsr import test_module
from tests.restoration.negvsr.test_clip_restorer import Doubling, batch
from tests.restoration.negvsr.test_module import module
from tests.restoration.negvsr.test_negatives import clip


def step(options: dict, changed: dict) -> object:
    given = {
        key: value for key, value in (test_module.batch(dtype=torch.float32) | changed).items() if value is not None
    }
    return module(**options).training_step(given, 0)  # type: ignore[arg-type]


# fmt: off
REJECTED: list[Row] = [
    ("Doubling", lambda _: Doubling().test_step(batch(0, 1, clean=False), 0), ValueError,
     "use predict to write estimates"),
    ("step 4", lambda _: step({}, {"noise": None}), ValueError,
     "negatives needs noise sequences: set data.noise"),
    ("step 5", lambda _: step({}, {"noise": torch.rand(2, 3, 1, 12, 12)}), ValueError,
     "noise must have the shape of the clips"),
    ("Negatives patch_size 2", lambda _: Negatives(patch_size=5).of(clip(), clip(*(2, 3, 3, 8, 12))), ValueError,
     r"\[8, 12\] must be divisible by negatives.patch_size, got 5"),
    ("Negatives", lambda _: Negatives().of(clip(), clip(*(2, 2, 3, 8, 12))), ValueError,
     "noise must have the shape of the clips"),
    ("turned_patches dtype", lambda _: turned_patches(clip(), torch.zeros(2, 3, 2, 2, dtype=torch.int64)), ValueError,
     "do not divide into 2 x 2 square patches"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
