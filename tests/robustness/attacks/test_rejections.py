import math
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.robustness.attacks.ascent import PGD
from tests.rejections import Row, rejections

# fmt: off
REJECTED: list[Row] = [
    ("PGD epsilon 1", lambda _: PGD(norm="l1", epsilon=0.1), ValueError, "norm"),
    ("PGD random_start", lambda _: PGD("linf", 0.1, restarts=3, random_start=False), ValueError,
     "restarts 3 needs random_start: true"),
    ("PGD epsilon 2", lambda _: PGD(norm="linf", epsilon=0.0), ValueError, "epsilon"),
    ("PGD epsilon 3", lambda _: PGD(norm="linf", epsilon=math.nan), ValueError, "epsilon"),
    ("PGD epsilon 4", lambda _: PGD(norm="linf", epsilon=math.inf), ValueError, "epsilon"),
    ("PGD steps", lambda _: PGD(norm="linf", epsilon=0.1, steps=0), ValueError, "steps"),
    ("PGD step_size", lambda _: PGD(norm="linf", epsilon=0.1, step_size=0.0), ValueError, "step_size"),
    ("PGD restarts", lambda _: PGD(norm="linf", epsilon=0.1, restarts=0), ValueError, "restarts"),
    ("PGD num_draws", lambda _: PGD(norm="linf", epsilon=0.1, num_draws=0), ValueError, "num_draws"),
    ("PGD name", lambda _: PGD(norm="linf", epsilon=0.1, name="a b"), ValueError, "name"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
