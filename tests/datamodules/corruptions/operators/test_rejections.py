from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from datamodules.corruptions.operators import AverageDownsampling, Blur, PhaseRetrieval
from datamodules.corruptions.operators.physics import DeepinvPhysics
from tests.datamodules.corruptions.operators.test_separable import IMAGE
from tests.rejections import Row, rejections

# fmt: off
REJECTED: list[Row] = [
    ("PhaseRetrieval 1", lambda _: PhaseRetrieval(8.0).pseudo_inverse(torch.ones(1, 1, 2, 2)), ValueError,
     "no image size gives a measurement of size 2"),
    ("DeepinvPhysics", lambda _: DeepinvPhysics(nn.Identity()), TypeError,
     r"physics must be a deepinv\.physics\.Physics, but Identity has no A and no A_dagger"),
    ("Blur 1", lambda _: Blur(4), ValueError, "taps must be odd, got 4"),
    ("AverageDownsampling 2", lambda _: AverageDownsampling(5).forward(IMAGE), ValueError,
     "AverageDownsampling needs images whose sides are multiples of 5, got 16"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
