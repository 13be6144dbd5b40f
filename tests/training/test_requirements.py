from types import SimpleNamespace

import pytest

from lightning_modules.training.requirements import require_all_rows, require_one_process
from tests.trainers import standing


def test_mini_batches_are_refused_where_all_rows_are_needed() -> None:
    require_all_rows(standing(datamodule=SimpleNamespace(whole=True)), "CoLiDE")
    require_all_rows(standing(datamodule=None), "CoLiDE")
    with pytest.raises(ValueError, match=r"data.batch_size must be left out for CoLiDE.* got 7"):
        require_all_rows(standing(datamodule=SimpleNamespace(whole=False, batch_size=7)), "CoLiDE")


def test_several_processes_are_refused_where_one_holds_all() -> None:
    require_one_process(standing(world_size=1), "CoLiDE")
    with pytest.raises(ValueError, match=r"CoLiDE works in one process, .* make 2: run seeds in parallel instead"):
        require_one_process(standing(world_size=2), "CoLiDE")
