"""Configuration files as tests read them: with what their base says."""

from pathlib import Path
from typing import Any

from experiments.config_files import mapping_of, with_base


def whole(path: Path) -> dict[str, Any]:
    """Read a configuration with its base, as nested keys; dotted keys are taken apart."""
    settings: dict[str, Any] = {}
    for file in with_base(path):
        for key, value in mapping_of(file).items():
            *outer, last = key.split(".")
            place = settings
            for name in outer:
                place = place.setdefault(name, {})
            place[last] = value
    settings.pop("base", None)
    return settings
