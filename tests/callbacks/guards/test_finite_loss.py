import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks.guards.finite_loss import NEVER, FiniteLoss, NonFiniteLoss
from tests.trainers import quiet

BATCHES_PER_EPOCH = 6


class Breaking(LightningModule):
    """Returns the loss `bad` in one batch of one epoch on one process. Each process has 4 samples per batch."""

    def __init__(self, epoch: int, batch: int, bad: float = math.nan, rank: int = 0) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.where = (epoch, batch, rank)
        self.bad = bad
        self.num_steps = 0

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        self.num_steps += 1
        here = self.where == (self.current_epoch, batch_idx, self.global_rank)
        return {"loss": self.weight * (self.bad if here else 1.0)}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/weight", self.weight)

    def train_dataloader(self) -> DataLoader:
        rank, world = self.trainer.global_rank, self.trainer.world_size
        batches = [
            {"index": 4 * world * batch + torch.arange(4) * world + rank, "image": torch.zeros(4, 1)}
            for batch in range(BATCHES_PER_EPOCH)
        ]
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class Reporting(FiniteLoss):
    """Makes each process write why it stops, and then wait, because the end of one process would end the others."""

    def _read(self, trainer: Trainer) -> None:
        try:
            super()._read(trainer)
        except NonFiniteLoss as error:
            (Path(trainer.default_root_dir) / f"rank_{trainer.global_rank}").write_text(str(error))
            trainer.strategy.barrier()
            raise


def trainer_in(directory: Path, *callbacks: Callback, processes: int = 1, **arguments: Any) -> Trainer:
    options: dict[str, Any] = {"max_epochs": 3, "log_every_n_steps": 1000, "callbacks": list(callbacks)}
    options |= {"devices": processes, "strategy": "ddp_fork" if processes > 1 else "auto"}
    keeps = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    return quiet(default_root_dir=directory, enable_checkpointing=keeps, **(options | arguments))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_message_names_step_epoch_and_samples(tmp_path: Path, bad: float) -> None:
    with pytest.raises(NonFiniteLoss) as raised:
        trainer_in(tmp_path, FiniteLoss()).fit(Breaking(epoch=1, batch=2, bad=bad))
    message = str(raised.value)
    assert f"became {bad} at step 8 (epoch 1, batch 2) on 4 samples with index 8, 9, 10, 11;" in message
    assert "no checkpoint was written before" in message
    assert "\n" not in message


def test_a_finite_run_is_left_alone(tmp_path: Path) -> None:
    module = Breaking(epoch=99, batch=0)
    trainer_in(tmp_path, FiniteLoss(), log_every_n_steps=2).fit(module)
    assert module.num_steps == 3 * BATCHES_PER_EPOCH


@pytest.mark.parametrize(("every", "num_steps"), [(1, 1), (4, 4), (1000, BATCHES_PER_EPOCH)])
def test_the_note_is_read_at_logging_steps_and_at_the_end_of_an_epoch(
    tmp_path: Path, every: int, num_steps: int
) -> None:
    module = Breaking(epoch=0, batch=0)
    with pytest.raises(NonFiniteLoss, match="step 0 "):
        trainer_in(tmp_path, FiniteLoss(), log_every_n_steps=every).fit(module)
    assert module.num_steps == num_steps


def test_a_bad_run_is_not_validated(tmp_path: Path) -> None:
    class Count(Callback):
        num_validations = 0

        def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
            self.num_validations += 1

    count = Count()
    with pytest.raises(NonFiniteLoss):
        trainer_in(tmp_path, FiniteLoss(), count).fit(Breaking(epoch=1, batch=0), val_dataloaders=[torch.zeros(1)])
    assert count.num_validations == 1


@pytest.mark.parametrize("weights_only", [False, True])
def test_the_last_good_checkpoint_stays(tmp_path: Path, weights_only: bool) -> None:
    """Save a checkpoint after each step, or of only the weights after each epoch, and keep only the newest one."""
    when = {"every_n_epochs": 1} if weights_only else {"every_n_train_steps": 1}
    keep = ModelCheckpoint(
        tmp_path, filename="{step}", save_last=True, save_top_k=1, save_weights_only=weights_only, **when
    )
    with pytest.raises(NonFiniteLoss, match=r"step 9 \(epoch 1, batch 3\)") as raised:
        trainer_in(tmp_path, FiniteLoss(), keep).fit(Breaking(epoch=1, batch=3))
    good_step = BATCHES_PER_EPOCH if weights_only else 9
    assert {path.name for path in tmp_path.glob("*.ckpt")} == {f"step={good_step}.ckpt", "last.ckpt"}
    assert f"the last good checkpoint is {tmp_path / 'last.ckpt'};" in str(raised.value)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == good_step
    assert checkpoint["state_dict"]["weight"].item() == pytest.approx(1 - 1e-3 * good_step)


def test_a_run_that_was_resumed_names_the_checkpoint_it_came_from(tmp_path: Path) -> None:
    path = tmp_path / "first.ckpt"
    first = trainer_in(tmp_path, FiniteLoss(), max_epochs=1)
    first.fit(Breaking(epoch=99, batch=0))
    first.save_checkpoint(path)
    with pytest.raises(NonFiniteLoss, match=r"step 6 .*the last good checkpoint is .*first\.ckpt"):
        trainer_in(tmp_path, FiniteLoss()).fit(Breaking(epoch=1, batch=0), ckpt_path=path, weights_only=True)


@pytest.mark.parametrize("rank", [0, 1])
def test_all_processes_stop_and_name_the_samples_of_the_one_that_broke(tmp_path: Path, rank: int) -> None:
    """The averaged gradient of a bad step spoils the weights everywhere, so only the first bad step is reported."""
    trainer = trainer_in(tmp_path, Reporting(), processes=2, log_every_n_steps=3)
    with pytest.raises(Exception, match="the training loss became nan at step 7"):
        trainer.fit(Breaking(epoch=1, batch=1, rank=rank))
    samples = ", ".join(str(8 + 2 * i + rank) for i in range(4))
    for process in range(2):
        message = (tmp_path / f"rank_{process}").read_text()
        assert "the training loss became nan at step 7 (epoch 1, batch 1) on 4 samples" in message
        assert f"with index {samples};" in message


def test_the_first_bad_batch_is_kept_and_its_first_samples_are_shown() -> None:
    callback = FiniteLoss()
    callback._note(torch.tensor(1.0), torch.arange(8), 0)
    callback._look()
    assert callback._first == NEVER
    callback._note(torch.tensor(math.nan), torch.arange(100, 164), 1)
    callback._note(torch.tensor(math.inf), torch.arange(3), 2)
    callback._steps = {0: 0, 1: 1, 2: 2}
    with pytest.raises(NonFiniteLoss) as raised:
        callback._read(quiet())
    shown = ", ".join(map(str, range(100, 120)))
    assert f"became nan at step 1 (epoch 0, batch 1) on 64 samples with index {shown}, ...;" in str(raised.value)


@pytest.mark.parametrize("first", [0, 63, 64, 130])
def test_the_first_bad_one_of_many_batches_is_found_among_those_that_are_looked_at_together(first: int) -> None:
    """In this test, batches 40 and 41 have no loss, all batches share one loss tensor, and batch sizes differ."""
    callback, loss = FiniteLoss(), torch.zeros(())
    for batch in range(200):
        if batch not in (40, 41):
            loss.fill_(math.inf if batch in (first, first + 1, 199) else 1.0)
            callback._note(loss, torch.arange(3 + batch % 2) + 10 * batch, batch)
        callback._steps[batch] = 7 * batch
    with pytest.raises(NonFiniteLoss) as raised:
        callback._read(quiet())
    samples = ", ".join(str(10 * first + place) for place in range(3 + first % 2))
    told = f"became inf at step {7 * first} (epoch 0, batch {first}) on {3 + first % 2} samples with index {samples};"
    assert told in str(raised.value)


def test_no_more_than_a_million_indices_are_held() -> None:
    callback = FiniteLoss()
    for batch in range(5):
        callback._note(torch.tensor(1.0), torch.zeros(2**19, dtype=torch.int64), batch)
        assert sum(len(index) for _, _, index in callback._held) <= 2**20


def test_noting_never_waits_for_the_device() -> None:
    """The test runs on the meta device, where any operation that needs a value fails."""
    callback = FiniteLoss()
    for size, batch in ((8, 0), (8, 1), (5, 2), (9, 3)):
        callback._note(torch.zeros((), device="meta"), torch.zeros(size, dtype=torch.int64, device="meta"), batch)
    callback._look()
    assert callback._first is not None
    assert callback._first.is_meta
    assert callback._index is not None
    assert callback._index.shape == (9,)


def test_a_manual_step_that_hides_its_loss_is_refused(tmp_path: Path) -> None:
    class Manual(Breaking):
        def __init__(self) -> None:
            super().__init__(epoch=99, batch=0)
            self.automatic_optimization = False

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:  # type: ignore[override]
            self.optimizers().step()  # type: ignore[union-attr]

    with pytest.raises(ValueError, match="training_step of Manual must return its 'loss' for FiniteLoss"):
        trainer_in(tmp_path, FiniteLoss()).fit(Manual())
