"""Check the data before the model is built: the number of classes for `num_classes: auto`, and captioned images."""

import os
import re
from collections.abc import Iterator
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import LightningDataModule

from experiments.parsing.class_paths import import_class_paths

AUTO = re.compile(r"(\bnum_classes: *)auto\b")
COUNTED = -1
"""Placeholder for `auto` until the number of classes is known. It is never a valid number of classes."""


def with_placeholder(text: str) -> str:
    """Replace the value `auto` of `num_classes` in the text of a configuration with the placeholder."""
    return AUTO.sub(rf"\g<1>{COUNTED}", text)


def count_classes(config: Namespace) -> None:
    """Replace all placeholders in the model's configuration with the number of classes of the data.

    If there is no placeholder, the DataModule is not built.
    """
    auto = [*_placeholders(config.get("model"))]
    if not auto:
        return
    data = data_of(config)
    number = getattr(data, "num_classes", None)
    if number is None:
        raise ValueError(f"num_classes: auto needs data with a number of classes, but {type(data).__name__} has none")
    names = getattr(getattr(data, "images", None), "class_names", None)
    if names is not None and len(names) == 1:  # images without labels have no names
        raise ValueError(
            f"num_classes: auto finds one class in the data, {names[0]}, but a classifier needs at least two; each "
            f"class is a folder of images"
        )
    for each in auto:
        each["num_classes"] = number


def check_captioned_images(config: Namespace) -> None:
    """Check images, captions and ranks for a model that needs captions, before the model is built.

    The DataModule is built, but no image is decoded.
    """
    model, data = config.get("model"), config.get("data")
    if not model or not data or not hasattr(import_class_paths(data.class_path), "require_captions"):
        return
    for part in (model, (model.get("init_args") or {}).get("network")):
        if not isinstance(part, Namespace) or not part.get("class_path"):
            continue
        path = part.class_path
        named = import_class_paths(path)
        if getattr(named, "needs_captions", False):
            reads: Any = data_of(config)
            reads.check_frames(getattr(named, "frame_multiple", None), path.rpartition(".")[2])
            module = import_class_paths(model.class_path)
            if getattr(module, "needs_captions", True):
                reads.require_captions(path.rpartition(".")[2])
            if (check := getattr(module, "check_before_loading", None)) is not None:
                check(reads, model.init_args.as_dict())
            known = getattr(named, "size_multiple_before_loading", None)
            settings = part.get("init_args") or Namespace()
            multiple = known(**settings.as_dict()) if known else None
            if multiple is not None:
                reads.check_sizes(multiple)
            reads.check_ranks(ranks_of(config))
            return


def ranks_of(config: Namespace) -> int:
    """Return the number of ranks that the configuration or the launcher sets, or 1 if neither sets it."""
    if launched := os.environ.get("WORLD_SIZE", ""):
        return int(launched) if launched.isdecimal() else 1
    trainer = config.get("trainer") or {}
    devices, nodes = trainer.get("devices"), trainer.get("num_nodes")
    if isinstance(devices, str) and "," in devices:  # a list of device indices; without a comma, a count
        devices = [each for each in devices.split(",") if each]
    number = str(devices)
    count = len(devices) if isinstance(devices, list) else int(number) if number.isdecimal() else 1
    return count * (nodes if isinstance(nodes, int) else 1)


def data_of(config: Namespace) -> LightningDataModule:
    """Build only the DataModule of a parsed configuration, before the model is built."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data")
    return parser.instantiate(parser.parse_object({"data": config.data.as_dict()})).data


def _placeholders(settings: Any) -> Iterator[Any]:
    """Yield the mappings in settings whose number of classes is the placeholder."""
    if isinstance(settings, dict | Namespace):
        if settings.get("num_classes") == COUNTED:
            yield settings
        settings = [*(settings if isinstance(settings, dict) else vars(settings)).values()]
    for each in settings if isinstance(settings, list) else ():
        yield from _placeholders(each)
