"""Group flat options of a DataModule, for helpers that build one with a few options of their caller."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any


def grouped(kind: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """Move options that are fields of a data class among the arguments, such as `loading`, into one instance of it."""
    parameters = inspect.signature(kind).parameters
    rest, groups = dict(options), dict[str, Any]()
    for name, parameter in parameters.items():
        if dataclasses.is_dataclass(part := parameter.default) and name not in options:
            own = {field.name for field in dataclasses.fields(part)} - parameters.keys()
            if found := {key: rest.pop(key) for key in own & rest.keys()}:
                groups[name] = dataclasses.replace(part, **found)  # type: ignore[type-var]
    return {**rest, **groups}
