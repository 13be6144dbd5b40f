from pathlib import Path
from typing import Any

import pytest

from lightning_modules.probabilistic.meco import MECO
from lightning_modules.probabilistic.meco.landscape import LocationEnergy
from lightning_modules.probabilistic.meco.noise_distributions import GaussianNoise, UniformDistribution
from lightning_modules.probabilistic.meco.objectives import MovingAverage
from tests.rejections import Row, rejections

# fmt: off
REJECTED: list[Row] = [
    ("MECO grid_half_width", lambda _: MECO(LocationEnergy(), GaussianNoise(1), MovingAverage(), grid_half_width=0),
     ValueError, "grid_half_width"),
    ("GaussianNoise std", lambda _: GaussianNoise(2, std=0), ValueError, "must be"),
    ("UniformDistribution", lambda _: UniformDistribution(0), ValueError, "must be"),
    ("MovingAverage 1", lambda _: MovingAverage(0), ValueError, "beta"),
    ("MovingAverage 2", lambda _: MovingAverage(1.1), ValueError, "beta"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
