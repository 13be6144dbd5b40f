"""Read the number of classes for `num_classes: auto` from the data, and check captions, before the model is built."""

import re
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import LightningDataModule

from experiments.parsing.class_paths import imported

AUTO = re.compile(r"(\bnum_classes: *)auto\b")
COUNTED = -1
"""Placeholder for `auto` until the class count is known; never a valid number of classes."""


def with_placeholder(text: str) -> str:
    """Replace `num_classes: auto` in the text of a configuration by the placeholder."""
    return AUTO.sub(rf"\g<1>{COUNTED}", text)


def count_classes(config: Namespace) -> None:
    """Replace the placeholder by the number of classes of the data, everywhere in the configuration of the model.

    Args:
        config: parsed configuration with `model` and `data`; changed in place. Without a placeholder, the DataModule is
            not built.

    Raises:
        ValueError: if the DataModule does not know the number of classes before it reads the data.
    """
    if not _replaced(config.get("model"), None):
        return
    data = data_of(config)
    number = getattr(data, "num_classes", None)
    if number is None:
        raise ValueError(f"num_classes: auto needs data with a number of classes, and {type(data).__name__} has none")
    _replaced(config.model, number)


def check_captions(config: Namespace) -> None:
    """Check that the data have captions if the module or its network needs them.

    Args:
        config: parsed configuration with `model` and `data`. The DataModule is built, but does not read its images.

    Raises:
        FileNotFoundError: if the images are missing.
        ValueError: if the images have no captions.
    """
    model, data = config.get("model"), config.get("data")
    if not model or not data or not hasattr(imported(data.class_path), "require_captions"):
        return
    for part in (model, (model.get("init_args") or {}).get("network")):
        path = part.get("class_path") if isinstance(part, Namespace) else None
        if path and getattr(imported(path), "needs_captions", False):
            reads: Any = data_of(config)
            reads.require_captions(path.rpartition(".")[2])
            return


def data_of(config: Namespace) -> LightningDataModule:
    """Build only the DataModule of a parsed configuration, before the model."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data")
    return parser.instantiate(parser.parse_object({"data": config.data.as_dict()})).data


def _replaced(settings: Any, number: int | None) -> bool:
    """Replace the placeholder by a number.

    If the number is None, nothing is replaced. Return whether there was a placeholder.
    """
    if isinstance(settings, list):
        return max([_replaced(each, number) for each in settings], default=False)
    if not isinstance(settings, dict | Namespace):
        return False
    found = False
    for key, value in (settings if isinstance(settings, dict) else vars(settings)).copy().items():
        if key == "num_classes" and value == COUNTED:
            found = True
            if number is not None:
                settings[key] = number
        else:
            found = _replaced(value, number) or found
    return found
