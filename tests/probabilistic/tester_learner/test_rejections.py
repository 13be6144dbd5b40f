from pathlib import Path
from typing import Any

import pytest

from tests.probabilistic.tester_learner.test_module import TesterLearner
from tests.rejections import Row, rejections

# fmt: off
REJECTED: list[Row] = [
    ("TesterLearner draws 1", lambda _: TesterLearner(dim=41, draws=40), ValueError,
     "dim must be at most 40 for moments of degree 4, got 41: use degree 2"),
    ("TesterLearner draws 2", lambda _: TesterLearner(dim=1, draws=40), ValueError, "dim must be at least 2"),
    ("TesterLearner eta", lambda _: TesterLearner(dim=3, draws=40, eta=0.5), ValueError,
     r"eta must be in \[0, 0.5\), got 0.5"),
    ("TesterLearner sigma", lambda _: TesterLearner(dim=3, draws=40, sigma=0.0), ValueError, "sigma must be positive"),
    ("TesterLearner surrogate", lambda _: TesterLearner(dim=3, draws=40, surrogate="hinge"), ValueError,
     "surrogate must be one of ramp, logistic"),
    ("TesterLearner degree", lambda _: TesterLearner(dim=3, draws=40, degree=3), ValueError,
     "degree must be one of 2, 4"),
    ("TesterLearner delta 1", lambda _: TesterLearner(dim=3, draws=40, delta=0.01), ValueError,
     "draws must be at least 100"),
    ("TesterLearner delta 2", lambda _: TesterLearner(dim=3, draws=40, delta=1.0), ValueError, "delta must be in"),
    ("TesterLearner target", lambda _: TesterLearner(dim=3, draws=40, target="ball", tests="strips"), ValueError,
     "tests must be true or false with target ball, got strips"),
    ("TesterLearner rows_per_iteration", lambda _: TesterLearner(dim=3, draws=40, rows_per_iteration=0), ValueError,
     "rows_per_iteration must be at least 1"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
