import math
import re

import pytest

from datamodules.arguments import ascending, at_least, one_of, only_with, positive, within


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda: at_least(1, batch_size=0), "batch_size must be at least 1, got 0"),
        (lambda: at_least(0, fine=3, decay=-0.5), "decay must be at least 0, got -0.5"),
        (lambda: at_least(0, rate=math.nan), "rate must be at least 0, got nan"),
        (lambda: positive(std=0.0), "std must be positive, got 0.0"),
        (lambda: positive(std=math.nan), "std must be positive, got nan"),
        (lambda: within(0, 1, share=1.5), "share must be in [0, 1], got 1.5"),
        (lambda: within(0, 1, "[)", fraction=1), "fraction must be in [0, 1), got 1"),
        (lambda: within(0, 1, "(]", area=0), "area must be in (0, 1], got 0"),
        (lambda: within(0, 1, "()", share=0), "share must be in (0, 1), got 0"),
        (lambda: within(0, 1, "()", share=1), "share must be in (0, 1), got 1"),
        (lambda: within(0, 1, share=math.nan), "share must be in [0, 1], got nan"),
        (lambda: ascending(0, snr=(5, 1)), "snr must be two numbers, the lower first, got [5, 1]"),
        (lambda: ascending(0, snr=(1, 2, 3)), "snr must be two numbers, the lower first, got [1, 2, 3]"),
        (lambda: ascending(0, 1, "(]", area=(0, 1)), "area must be in (0, 1], got 0"),
        (lambda: ascending(0, 1, area=(0.5, 2)), "area must be in [0, 1], got 2"),
        (lambda: one_of(("bird", "car"), subject="cat"), "subject must be one of bird, car, got 'cat'"),
    ],
)
def test_the_argument_what_is_allowed_and_what_was_given_are_named(refused, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{re.escape(message)}$"):
        refused()


def test_bounds_that_belong_and_arguments_that_are_not_given_pass() -> None:
    at_least(1, size=1, other=None)
    positive(std=1e-9, other=None)
    within(0, 1, low=0, high=1, other=None)
    within(0, 1, "[)", low=0)
    within(0, 1, "(]", high=1)
    ascending(0, 1, low=(0, 0), high=[0.5, 1])
    one_of((None, "a"), first="a", second=None)


def filtered(kind: str = "mean", rank: float = 0.5, weights: tuple[float, ...] = (1.0, 2.0)) -> None:
    only_with("kind median", kind == "median", filtered, rank=rank, weights=weights)


def test_an_argument_away_from_its_default_is_rejected_where_its_mode_is_not_chosen() -> None:
    filtered("median", 0.1)
    filtered("mean", 0.5, [1.0, 2.0])  # type: ignore[arg-type]  # as written in YAML for the default
    with pytest.raises(ValueError, match=r"^rank is used only with kind median: leave it at 0\.5, got 0\.1$"):
        filtered("mean", 0.1)
