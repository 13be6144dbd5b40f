from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningModule
from torch import Tensor

from lightning_modules.robustness.attacks import PGD
from tests.callbacks.attacks.half_space import Broken, HalfSpace, callback, run
from tests.rejections import Row, rejections


class Nameless(LightningModule):
    def test_step(self, batch: Any, batch_idx: int) -> None: ...


def smoothing_of_a_mixture(root: Path) -> object:
    class Mixing(HalfSpace):
        chooses_alpha = False

        def mix(self, image: Tensor, alpha: float | None = None) -> Any: ...

    smoothed = [PGD("linf", 1e-4, steps=1, num_draws=2, name="box")]
    return run(root, callback(attacks=smoothed, sigma=0.1, num_draws=2), Mixing())


# fmt: off
REJECTED: list[Row] = [
    ("smoothing of a mixture",
     smoothing_of_a_mixture, ValueError, r"sigma must be 0 for Mixing, got 0\.1"),
    ("callback num_draws 1", lambda _: callback(sigma=0.1, num_draws=10), ValueError,
     r"box: num_draws must be at least 2 with sigma 0.1"),
    ("callback steps", lambda _: callback(attacks=[PGD("linf", 0.1), PGD("linf", 0.1, steps=3)]), ValueError,
     "attacks"),
    ("run limit_test_batches", lambda root: run(root, callback(), HalfSpace(), limit_test_batches=0), ValueError,
     "limit_test_batches"),
    ("run precision", lambda root: run(root, callback(), HalfSpace(), precision="16-true"), ValueError,
     r"RobustAccuracy needs gradients, .* 16-true"),
    ("run 1", lambda root: run(root, callback(), Nameless()), TypeError,
     "RobustAccuracy needs a Classifier, and Nameless lacks"),
    ("run 2", lambda root: run(root, callback(), Broken()), ValueError, r"logits are NaN for images in 0\.\.\.7"),
]
# fmt: on


@rejections(*REJECTED)
def test_what_is_rejected_is_named(called: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        called(tmp_path)
