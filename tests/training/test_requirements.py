from types import SimpleNamespace

import pytest
from lightning.pytorch.strategies import DDPStrategy

from lightning_modules.training.requirements import (
    require_all_rows,
    require_one_process,
    require_unused_parameters,
)
from tests.trainers import standing


def test_mini_batches_are_refused_where_all_rows_are_needed() -> None:
    require_all_rows(standing(datamodule=SimpleNamespace(whole=True, batch_size=9, rows_on_device=True)), "CoLiDE")
    require_all_rows(standing(datamodule=None), "CoLiDE")
    with pytest.raises(ValueError, match=r"data.batch_size must be left out for CoLiDE.* got 7"):
        require_all_rows(standing(datamodule=SimpleNamespace(whole=False, batch_size=7, rows_on_device=True)), "CoLiDE")


def test_several_processes_are_refused_where_one_holds_all() -> None:
    require_one_process(standing(world_size=1), "CoLiDE")
    with pytest.raises(
        ValueError, match=r"CoLiDE works in one process, .* make 2 processes: run seeds in parallel instead"
    ):
        require_one_process(standing(world_size=2), "CoLiDE")


def test_a_ddp_that_expects_a_gradient_for_each_parameter_is_refused() -> None:
    require_unused_parameters(standing(strategy=DDPStrategy(find_unused_parameters=True)), "ELRPlus", "rests")
    require_unused_parameters(standing(strategy=None), "ELRPlus", "rests")
    with pytest.raises(ValueError, match=r"ELRPlus rests: trainer.strategy must be ddp_find_unused_parameters_true"):
        require_unused_parameters(standing(strategy=DDPStrategy()), "ELRPlus", "rests")
