"""Reject data without captions before the pipeline that needs them is loaded."""

from jsonargparse import Namespace

from datamodules.prompts.captioned_set import require_captions
from experiments.class_counts import data_of
from experiments.class_paths import imported


def check_captions(config: Namespace) -> None:
    """Check that the data have captions where the module, or the network it trains, needs them.

    Args:
        config: parsed, with `model` and `data`. The data are built, their images are not read.

    Raises:
        FileNotFoundError: if the images are missing.
        ValueError: if they have no captions.
    """
    model, data = config.get("model"), config.get("data")
    if not model or not data or not isinstance((data.get("init_args") or {}).get("images"), Namespace):
        return
    for part in (model, (model.get("init_args") or {}).get("network")):
        path = part.get("class_path") if isinstance(part, Namespace) else None
        if path and getattr(imported(path), "needs_captions", False):
            require_captions(data_of(config), path.rpartition(".")[2])
            return
