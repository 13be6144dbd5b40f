"""A Trainer that prints, logs and saves nothing, for tests that look at what is trained."""

from types import SimpleNamespace
from typing import Any

from lightning.pytorch import Trainer

QUIET: dict[str, Any] = {
    **{"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "num_sanity_val_steps": 0},
    **{"enable_progress_bar": False, "enable_model_summary": False, "use_distributed_sampler": False},
}


def quiet(**options: Any) -> Trainer:
    """Make a Trainer of QUIET and of the options, which win."""
    return Trainer(**{**QUIET, **options})


def standing(**attributes: Any) -> Any:
    """Make what a module asks of a trainer when it is set up, with the attributes of one's choice."""
    loop = quiet()
    return SimpleNamespace(
        **{"datamodule": None, "fit_loop": loop.fit_loop, "predict_loop": loop.predict_loop, **attributes}
    )
