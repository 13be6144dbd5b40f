"""Base class of the LightningModules of all methods."""

from typing import Any, Self

from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities import rank_zero_warn

from lightning_modules.interfaces import BatchSeeder


class MethodModule(LightningModule):
    """A LightningModule whose checkpoints contain weights and state, but no constructor arguments."""

    def configure_callbacks(self) -> list[Callback]:
        """Warn if random numbers differ from those of a run with one process. With `train.py`, they do not differ."""
        trainer: Any = self.trainer
        if trainer.world_size > 1 and not any(isinstance(each, BatchSeeder) for each in trainer.callbacks):
            rank_zero_warn(
                f"with {trainer.world_size} processes, random numbers differ from those of one process: for results "
                "that do not depend on the number of processes, add callbacks.guards.SeedEveryBatch() to the callbacks"
            )
        return []

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Give the weights of training to schedule-free optimizers; see `optim.optimizers.with_schedule`."""
        for optimizer in self.trainer.optimizers:
            if hasattr(optimizer, "train"):
                optimizer.train()

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:
        """Build the module from the given constructor arguments, and load the weights of a checkpoint.

        Raises:
            TypeError: if a constructor argument is missing.
        """
        try:
            return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)
        except TypeError as error:
            if "__init__() missing" not in str(error):
                raise
            missing = str(error).partition("missing ")[2]
            raise TypeError(
                f"{cls.__name__}.load_from_checkpoint is missing {missing}: checkpoints contain no constructor "
                f"arguments, so pass them, or rebuild model and data with experiments.load_run.load_run(RUN_DIRECTORY)"
            ) from None
