"""The cost of an iteration depends only on the sampled blocks, not on the total number of blocks."""

import time
from collections.abc import Callable

import pytest

from datamodules.loading import Loading
from datamodules.tables.bundled import BreastCancer
from datamodules.tables.tables import Tables
from datamodules.tables.trusted_rows import TrustedRows
from lightning_modules.optimization.mbbo import BSVRB
from tests.benchmarks.pairs import paired_ratio
from tests.trainers import quiet

pytestmark = pytest.mark.benchmark
Report = Callable[[str, float, str], None]


@pytest.mark.parametrize("variant", ["v1", "v2"])
def test_ten_times_as_many_blocks_cost_little(variant: str, report: Report) -> None:
    table = TrustedRows(BreastCancer(validation_fraction=0.0, test_fraction=0.01), 300, 100, flipped=0.3)

    def fit(blocks: int) -> Callable[[], None]:
        data = Tables(table, loading=Loading(passes_per_epoch=2))

        def run() -> None:
            module = BSVRB(300, 30, blocks, 10, 32, variant, ridge=0.05, iterations_per_step=500)  # type: ignore[arg-type]
            quiet(max_epochs=1, precision="64-true").fit(module, datamodule=data)

        return run

    ratio = paired_ratio(fit(1000), fit(100), rounds=5, clock=time.process_time)
    report(f"BSVRB-{variant}, 1,000 iterations of 10 blocks: 1,000 blocks against 100", ratio, "<= 1.3")
    assert ratio <= 1.3
