from pathlib import Path
from typing import Any

import pytest

from lightning_modules.robustness.mahalanobis.module import CopyNoise
from tests.rejections import Row, rejections
from tests.robustness.mahalanobis.small_detector import FGSM, detector

# fmt: off
REJECTED: list[Row] = [
    ("detector score 2", lambda _: detector(score="tuned_on_attack"), ValueError,
     "score tuned_on_attack needs attacks"),
    ("detector score 3", lambda _: detector(score="odin"), ValueError, "score odin needs odin: true"),
    ("detector epsilons", lambda _: detector(epsilons=[0.1]), ValueError, r"include 0, got \[0.1\]"),
    ("detector pgd", lambda _: detector(noise=CopyNoise({"pgd": 1.0}), attacks=[FGSM]), ValueError,
     r"name each of the attacks \['fgsm'\], got \['pgd'\]"),
    ("detector lid", lambda _: detector(lid=True), ValueError, "lid needs attacks"),
    ("detector attacks 1", lambda _: detector(score="lid", attacks=[FGSM]), ValueError, "score lid needs lid: true"),
    ("detector attacks 2", lambda _: detector(attacks=[FGSM, FGSM]), ValueError, "got fgsm twice: set `name`"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
