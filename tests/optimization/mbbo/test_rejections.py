from pathlib import Path
from typing import Any

import pytest

from lightning_modules.optimization.mbbo import BSVRB, RSVRB
from tests.optimization.mbbo.test_module import SMALL
from tests.optimization.mbbo.test_module import fitted as fitted_of_reweighting
from tests.optimization.mbbo.test_ndcg import fitted, ranking
from tests.rejections import Row, rejections

# fmt: off
REJECTED: list[Row] = [
    ("BSVRB 1", lambda _: BSVRB(**{**SMALL, **{"sampled_blocks": 3}}), ValueError,
     "sampled_blocks must divide 10, the number of blocks, got 3"),
    ("BSVRB 2", lambda _: BSVRB(**{**SMALL, **{"ridge": 0.0}}), ValueError,
     "ridge must be positive, got 0.0: without it the models' losses are not strongly convex"),
    ("RSVRB 1", lambda _: RSVRB(**{**SMALL, **{"sampled_blocks": 3}}), ValueError,
     "sampled_blocks must divide 10, the number of blocks, got 3"),
    ("fitted precision", lambda _: fitted(ranking(), precision="bf16-true"), ValueError,
     "precision bf16-true has too few digits"),
    ("fitted_of_reweighting features", lambda _: fitted_of_reweighting(features=29), ValueError,
     r"model\.features must be 30"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
