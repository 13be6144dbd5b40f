from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lightning.pytorch import LightningModule

from callbacks.save_tables import SaveTables
from lightning_modules.interfaces import Table


class Measured(LightningModule):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.tables = {"regret": Table({"step": [1, 2], "regret": [value, 0.1]})}


def trainer_in(directory: Path | None, first: bool = True) -> Any:
    return SimpleNamespace(log_dir=directory and str(directory), is_global_zero=first)


def test_tables_are_written_and_drawn_after_training_and_after_the_first_test(tmp_path: Path) -> None:
    callback = SaveTables()
    callback.setup(trainer_in(tmp_path), Measured(0.0), "fit")
    callback.on_fit_end(trainer_in(tmp_path, first=False), Measured(0.0))
    assert not list(tmp_path.iterdir())
    for hook, value, written in (
        (callback.on_fit_end, 0.5, 0.5),
        (callback.on_test_end, 0.30000000000000004, 0.30000000000000004),
        (callback.on_test_end, 0.7, 0.30000000000000004),
    ):
        hook(trainer_in(tmp_path), Measured(value))
        assert (tmp_path / "regret.csv").read_text() == f"step,regret\n1,{written}\n2,0.1\n"
    assert (tmp_path / "figures" / "regret.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_without_a_directory_writes_nothing() -> None:
    SaveTables().on_test_end(trainer_in(None), Measured(0.0))
