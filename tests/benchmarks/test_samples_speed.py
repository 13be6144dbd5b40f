"""Training batches of in-memory images, with ten times the number of samples."""

import time
from collections.abc import Callable

import pytest

from tests.benchmarks.pairs import paired_ratio
from tests.benchmarks.test_image_pairs_speed import Trainer
from tests.benchmarks.test_spine import spine

pytestmark = pytest.mark.benchmark


def test_ten_times_the_samples(report: Callable[[str, float, str], None]) -> None:
    """Measure an epoch from the dataset to the last batch, with label noise, shuffling, crops and mirroring."""

    def epoch(size: int) -> None:
        data = spine(size)
        data.setup("fit")
        data.trainer = Trainer()  # type: ignore[assignment]
        for batch in data.train_dataloader():
            data.on_after_batch_transfer(batch, 0)

    ratio = paired_ratio(lambda: epoch(50_000), lambda: epoch(5000), 5, time.process_time)
    report("growth: CPU time of setting up and reading 50,000 images of 32 x 32 against 5,000", ratio, "<= 11")
    assert ratio <= 11
