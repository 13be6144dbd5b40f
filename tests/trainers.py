"""A Trainer that prints, logs and saves nothing, for tests that inspect the trained weights."""

from types import SimpleNamespace
from typing import Any

from lightning.pytorch import Trainer

QUIET: dict[str, Any] = {
    **{"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "num_sanity_val_steps": 0},
    **{"enable_progress_bar": False, "enable_model_summary": False, "use_distributed_sampler": False},
}


def quiet(**options: Any) -> Trainer:
    """Create a Trainer with the options of QUIET; the given options take precedence."""
    return Trainer(**{**QUIET, **options})


def standing(**attributes: Any) -> Any:
    """Create a stand-in for the trainer attributes that a module reads in `setup`, with the given attributes added."""
    loop = quiet()
    return SimpleNamespace(
        **{"datamodule": None, "fit_loop": loop.fit_loop, "predict_loop": loop.predict_loop, **attributes}
    )
