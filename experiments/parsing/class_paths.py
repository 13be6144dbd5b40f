"""Refuse classes in a configuration that are not of the type that an argument says, so that it runs no other code.

jsonargparse checks this for classes. It does not for a function that is given with `init_args` where an optimizer or a
schedule is expected, and builds any class at all where an argument has no type.
"""

import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import lightning.pytorch.cli  # noqa: F401  # lets the parser read from addresses, which is undone here
from jsonargparse import Namespace, set_parsing_settings

set_parsing_settings(config_read_mode_urls_enabled=False, config_read_mode_fsspec_enabled=False)
# A path below os, subprocess, pickle, ... is refused before it is imported, wherever it stands.
set_parsing_settings(import_path_denylist=[], instantiate_subclass_spec_in_any=False)


def check_class_paths(key: str, hint: Any, value: Any) -> None:
    """Check the class paths in an argument's value, those in their own `init_args` excepted.

    Args:
        key: name of the argument.
        hint: its type.
        value: what was parsed for it.

    Raises:
        TypeError: names a class path that the type does not allow.
    """
    classes = tuple(_classes(hint))
    for path in _class_paths(value):
        named = imported(path)
        if inspect.isclass(named) or any(getattr(each, "_is_protocol", False) for each in classes):
            allowed = bool(classes) or _takes_callables(hint)  # jsonargparse has checked which ones
        else:
            result = _return_type(named)
            allowed = isinstance(result, type) and issubclass(result, classes)
        if not allowed:
            wanted = " or ".join(f"{each.__module__}.{each.__qualname__}" for each in classes)
            told = (
                f"it must be a {wanted}, or a function that says it returns one" if wanted else "its type allows none"
            )
            raise TypeError(f'Parser key "{key}":\n  {path} is refused: {told}')


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
    """Yield the classes in a type, those that a callable returns included."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Callable:
        inner = inner[-1:]
    elif isinstance(hint, type) and hint.__module__ != "builtins":
        yield hint
    elif isinstance(origin, type) and origin.__module__ not in ("builtins", "collections.abc", "types"):
        yield origin  # of a generic class
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


def imported(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(__import__(module, fromlist=[name]), name)
