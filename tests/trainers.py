"""A Trainer that prints, logs and saves nothing, for tests that inspect the trained weights."""

from types import SimpleNamespace
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerStatus

QUIET: dict[str, Any] = {
    **{"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "num_sanity_val_steps": 0},
    **{"enable_progress_bar": False, "enable_model_summary": False, "use_distributed_sampler": False},
}


def quiet(**options: Any) -> Trainer:
    """Create a Trainer with the options of QUIET; the given options take precedence."""
    return Trainer(**{**QUIET, **options})


def running(**options: Any) -> Trainer:
    """Create a Trainer whose DataLoaders return stored batches, as within a step of training or evaluation."""
    trainer = Trainer(**options)
    trainer.state.status = TrainerStatus.RUNNING
    return trainer


def standing(**attributes: Any) -> Any:
    """Create a stand-in for the trainer attributes that a module reads in `setup`, with the given attributes added."""
    loop = quiet()
    return SimpleNamespace(
        state=SimpleNamespace(status=TrainerStatus.RUNNING),
        **{"datamodule": None, "fit_loop": loop.fit_loop, "predict_loop": loop.predict_loop, **attributes},
    )
