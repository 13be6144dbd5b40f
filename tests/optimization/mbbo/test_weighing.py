"""What all that learn weights of samples share: iterations in steps of any length, tests, refusals."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor

from datamodules.tables.tables import Tables
from lightning_modules.optimization.mbbo import BSVRB
from lightning_modules.optimization.mbbo.reweighting import objective, with_one
from lightning_modules.optimization.mbbo.rows import WeightedRows
from tests.optimization.mbbo.test_module import SMALL, fitted, table
from tests.trainers import quiet, standing


def test_equal_weights_tell_nothing_apart() -> None:
    _, found = fitted(eta=0.0)
    assert found["test/flip_auroc"] == found["test/clean_weight"] == found["test/flipped_weight"] == 0.5


def test_steps_of_any_length_are_the_same_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    draws: dict[tuple[int, ...], Tensor] = {}

    def drawn(self: WeightedRows, shape: tuple[int, ...], purpose: int, number: int) -> tuple[Tensor, Tensor]:
        first, rows = (number * shape[0] if purpose == 1 else 0), []
        for part in ("training", "trusted"):
            key = (purpose, len(part), *shape[1:])
            random = torch.Generator().manual_seed(purpose)
            draws.setdefault(key, torch.randint(100, (60, *shape[1:]), generator=random))
            rows.append(draws[key][first : first + shape[0]])
        return rows[0], rows[1]

    monkeypatch.setattr(WeightedRows, "drawn", drawn)
    one, other = (fitted(steps, iterations_per_step=60 // steps)[0] for steps in (3, 20))
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=1e-12)


def test_the_test_reports_all_models_and_the_one_that_trusted_samples_choose() -> None:
    module, found = fitted(2)
    rows, trusted = table().test().columns, module.rows.trusted
    y, z = module.blocks.y, with_one(rows["features"])
    assert found["test/objective"] == pytest.approx(objective(z, rows["target"], y, module.temperature).mean().item())
    best = ((trusted[0] @ y.T).sign() == trusted[1][:, None]).sum(0).argmax()
    assert found["test/accuracy"] == pytest.approx(((z @ y[best]).sign() == rows["target"]).double().mean().item())
    torch.testing.assert_close(module(rows["features"]), z @ y.T)


def test_rows_that_do_not_fit_are_refused_before_training() -> None:
    with pytest.raises(ValueError, match=r"model\.features must be 30"):
        fitted(features=29)


def test_several_processes_need_blocks_of_their_own() -> None:
    module = BSVRB(**SMALL)
    module._trainer = standing(precision="64-true", world_size=2, strategy=None, datamodule=Tables(table()))
    with pytest.raises(ValueError, match=r"trainer\.strategy must be .*Independent on several processes"):
        module.setup("fit")


@pytest.mark.parametrize("variant", ["v1", "v2"])
def test_a_run_killed_within_a_step_ends_where_the_whole_one_does(
    variant: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def module() -> BSVRB:
        return BSVRB(**SMALL, variant=variant)

    class Save(Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            trainer.save_checkpoint(tmp_path / "last.ckpt")

    def fit(killed: BSVRB, callbacks: Any = None, **arguments: Any) -> BSVRB:
        trainer = quiet(max_steps=4, precision="64-true", callbacks=callbacks)
        trainer.fit(killed, datamodule=Tables(table(), passes_per_epoch=4), **arguments)
        return killed

    whole, killed, moves = fit(module()), module(), 0
    move = killed.blocks.move

    def moved(*arguments: Any) -> Any:
        nonlocal moves
        moves += 1
        if moves == 120:  # within the third step of fifty iterations
            raise RuntimeError("killed")
        return move(*arguments)

    monkeypatch.setattr(killed.blocks, "move", moved)
    with pytest.raises(RuntimeError, match="killed"):
        fit(killed, [Save()])
    resumed = fit(module(), ckpt_path=tmp_path / "last.ckpt")
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)
    assert resumed.tables["course"].columns == whole.tables["course"].columns
