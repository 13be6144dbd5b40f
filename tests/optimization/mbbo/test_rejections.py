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
    ("BSVRB 3", lambda _: BSVRB(**{**SMALL, **{"variant": "v3"}}), ValueError, "variant must be one of v1, v2"),
    ("BSVRB 4", lambda _: BSVRB(**{**SMALL, **{"alpha": 0.0}}), ValueError, "alpha must be in"),
    ("BSVRB 5", lambda _: BSVRB(**{**SMALL, **{"beta": 1.5}}), ValueError, "beta must be in"),
    ("BSVRB 6", lambda _: BSVRB(**{**SMALL, **{"tau": 0.0}}), ValueError, "tau must be positive"),
    ("BSVRB 7", lambda _: BSVRB(**{**SMALL, **{"eta": -1.0}}), ValueError, "eta must be at least 0"),
    ("BSVRB 8", lambda _: BSVRB(**{**SMALL, **{"batch_size": 0}}), ValueError, "batch_size must be at least 1"),
    ("RSVRB 1", lambda _: RSVRB(**{**SMALL, **{"sampled_blocks": 3}}), ValueError,
     "sampled_blocks must divide 10, the number of blocks, got 3"),
    ("RSVRB 2", lambda _: RSVRB(**{**SMALL, **{"ridge": 0.0}}), ValueError, "ridge must be positive"),
    ("RSVRB 3", lambda _: RSVRB(**{**SMALL, **{"beta": 0.0}}), ValueError, "beta must be in"),
    ("RSVRB 4", lambda _: RSVRB(**{**SMALL, **{"tau": 0.0}}), ValueError, "tau must be positive"),
    ("ranking positives", lambda _: ranking(positives=0), ValueError, "positives must be at least 1"),
    ("ranking top", lambda _: ranking(top=0), ValueError, "top must be at least 1"),
    ("ranking alpha", lambda _: ranking(alpha=0.0), ValueError, "alpha must be in"),
    ("ranking tau", lambda _: ranking(tau=0.0), ValueError, "tau must be positive"),
    ("ranking gamma", lambda _: ranking(gamma=-1.0), ValueError, "gamma must be at least 0"),
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
