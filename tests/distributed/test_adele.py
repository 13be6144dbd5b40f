"""Two processes correct labels as one process does, however the images are distributed over them."""

from pathlib import Path

import pytest
import torch

from tests.noisy_labels.adele.test_module import NUM_TRAIN, SaveAt, assert_same_end, fit, small_adele


@pytest.mark.parametrize("rule", ["training", "evaluation"])
def test_two_processes_equal_one_and_one_goes_on_where_two_were_killed(rule: str, tmp_path: Path) -> None:
    """Batches of 5, 5 and 4 images are split as 3 + 2, 3 + 2 and 2 + 2; the kill is in an epoch with corrections."""
    one, two, resumed = (tmp_path / name for name in ("one", "two", "resumed"))
    fit(small_adele(rule), one, SaveAt(one), epochs=4)
    fit(small_adele(rule), two, SaveAt(two, epoch=2, batch=1), epochs=4, processes=2)
    assert_same_end(one, two)
    within = torch.load(two / "within.ckpt", weights_only=True)
    expected = 10 if rule == "training" else 0
    predicted = within["training_predictions"].get("index", torch.empty(0, dtype=torch.int64))
    assert len(predicted.unique()) == len(predicted) == expected < NUM_TRAIN
    fit(small_adele(rule), resumed, SaveAt(resumed), epochs=4, resume=two / "within.ckpt")
    assert_same_end(one, resumed)
