"""The base of every method: what Lightning's own module does not know of a run."""

from typing import Any, Self

from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities import rank_zero_warn


class MethodModule(LightningModule):
    """A LightningModule whose checkpoints hold weights and state, and no constructor arguments."""

    def configure_callbacks(self) -> list[Callback]:
        """Warn if ranks will sample other random numbers than a single process does; `train.py` avoids that."""
        trainer: Any = self.trainer
        if trainer.world_size > 1 and not any(hasattr(each, "seeds_batches") for each in trainer.callbacks):
            rank_zero_warn(
                f"{trainer.world_size} processes draw other random numbers than one does: add "
                "callbacks.guards.SeedEveryBatch() to the Trainer's callbacks for results that do not depend on them"
            )
        return []

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:
        """Build the module from constructor arguments given here, and load a checkpoint's weights into it.

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
                f"{cls.__name__}.load_from_checkpoint is missing {missing}: checkpoints hold no constructor arguments, "
                f"so pass them, or rebuild model and data with experiments.load_run.load_run(RUN_DIRECTORY)"
            ) from None
