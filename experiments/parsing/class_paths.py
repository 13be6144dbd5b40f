"""Reject class paths that do not match the type of an argument, before any code of the class runs.

jsonargparse checks classes, except in two cases: a function with `init_args` in place of an optimizer or schedule, and
an argument without a type. This module checks these two cases.
"""

import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import lightning.pytorch.cli  # noqa: F401  # enables reading from URLs, which is disabled again here
from jsonargparse import Namespace, set_parsing_settings

from experiments.lightning_internals import resolve_stubs_without_a_process

set_parsing_settings(config_read_mode_urls_enabled=False, config_read_mode_fsspec_enabled=False)
# Paths in os, subprocess, pickle and similar modules are rejected before import, wherever they appear.
set_parsing_settings(import_path_denylist=[], instantiate_subclass_spec_in_any=False)
resolve_stubs_without_a_process()


def check_class_paths(key: str, hint: Any, value: Any) -> None:
    """Check the class paths in the value of an argument of a type, except those inside `init_args`."""
    classes = tuple(_classes(hint))
    for path in _class_paths(value):
        named = import_class_paths(path)
        if inspect.isclass(named) or any(getattr(each, "_is_protocol", False) for each in classes):
            allowed = bool(classes) or _takes_callables(hint)  # jsonargparse has checked the callables
        else:
            result = _return_type(named)
            allowed = isinstance(result, type) and issubclass(result, classes)
        if not allowed:
            wanted = " or ".join(f"{each.__module__}.{each.__qualname__}" for each in classes)
            told = f"it must be a {wanted}, or a function annotated to return one" if wanted else "its type allows none"
            raise TypeError(f'Parser key "{key}":\n  {path} is rejected: {told}')


def _class_paths(value: Any) -> Iterator[str]:
    if isinstance(value, Namespace | Mapping):
        inner = vars(value) if isinstance(value, Namespace) else value
        if isinstance(path := inner.get("class_path"), str):
            yield path
        else:
            for each in inner.values():
                yield from _class_paths(each)
    elif isinstance(value, list | tuple | set):
        for each in value:
            yield from _class_paths(each)


def _classes(hint: Any) -> Iterator[type]:
    """Yield the classes in a type hint, including the return types of callables."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Callable:
        inner = inner[-1:]
    elif isinstance(hint, type) and hint.__module__ != "builtins":
        yield hint
    elif isinstance(origin, type) and origin.__module__ not in ("builtins", "collections.abc", "types"):
        yield origin  # origin of a generic class
    for each in inner:
        yield from _classes(each)


def _takes_callables(hint: Any) -> bool:
    origin = typing.get_origin(hint) or hint
    return origin in (Callable, typing.Callable) or any(map(_takes_callables, typing.get_args(hint)))


def _return_type(function: Any) -> Any:
    try:
        return typing.get_type_hints(function).get("return")
    except (TypeError, NameError):
        return None


def import_class_paths(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(__import__(module, fromlist=[name]), name)
