"""What this process has parsed before is not parsed again: half of what a short run costs is reading its settings.

jsonargparse parses each nested class several times, and all that is nested in it each time. Results are kept by all
that they depend on: the parser, the values, the options, the state of jsonargparse, and which check and which imports
are in force. Values that are no plain ones, or may name files, are parsed again each time.
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any
from unittest import mock

from jsonargparse import ArgumentParser, Namespace

from experiments.command_line import CommandLine, Parser
from experiments.lightning_internals import import_verdicts

KEPT: dict[Any, Any] = {}
VERDICTS: list[Any] = []
MODULES = [module for name, module in sys.modules.items() if name.partition(".")[0] == "jsonargparse"]
STATE = {id(each): each for module in MODULES for each in vars(module).values() if isinstance(each, ContextVar)}
FIND = "find_action_and_subcommand"
PLAIN = (bool, int, float, type(None))


class NotPlainError(Exception):
    """A value that does not stand for itself."""


def key_of(value: Any, objects: bool = False) -> Any:
    """Make what tells a value from any other, with its types and orders; `objects` stand for themselves."""
    kind = type(value)
    if kind is str and (objects or "/" not in value):
        return value
    if kind in PLAIN:
        return kind, value
    if kind is Namespace:
        return kind, *((key, key_of(each, objects)) for key, each in vars(value).items())
    if kind is dict:
        return kind, *((key, key_of(each, objects)) for key, each in value.items())
    if kind in (list, tuple):
        return kind, *(key_of(each, objects) for each in value)
    if objects and kind.__hash__ is not None:
        return value
    raise NotPlainError


def copied(value: Any) -> Any:
    """Copy namespaces, dicts and lists, which callers change."""
    kind = type(value)
    if kind is Namespace:
        new = Namespace()
        vars(new).update((key, copied(each)) for key, each in vars(value).items())
        return new
    if kind is dict:
        return {key: copied(each) for key, each in value.items()}
    return kind(map(copied, value)) if kind in (list, tuple) else value


def state() -> Any:
    """Tell what parsing depends on beside its arguments."""
    verdicts = import_verdicts()
    if verdicts not in VERDICTS:
        VERDICTS.append(dict(verdicts))
    return VERDICTS.index(verdicts), Parser.validate, *(key_of(each.get(None), objects=True) for each in STATE.values())


def kept(method: Callable[..., Any]) -> Callable[..., Any]:
    """Make a method of parsers that returns a copy of what it returned before."""

    @functools.wraps(method)
    def again(self: ArgumentParser, *arguments: Any, **options: Any) -> Any:
        try:
            key = method.__name__, self, key_of(arguments), key_of(options), state()
        except NotPlainError:
            return method(self, *arguments, **options)
        if key not in KEPT:
            KEPT[key] = copied(method(self, *arguments, **options))
        return copied(KEPT[key])

    return again


def found_once(find: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function that finds a parser's action for a key where it found the action before."""

    def find_again(parser: Any, key: str, exclude: Any = None) -> Any:
        place = FIND, parser, len(parser._actions), key, exclude
        if place not in KEPT:
            KEPT[place] = find(parser, key, exclude=exclude)
        return KEPT[place]

    return find_again


METHODS = {name: kept(getattr(ArgumentParser, name)) for name in ("parse_object", "get_defaults")}
FINDING = {module: found_once(getattr(module, FIND)) for module in MODULES if hasattr(module, FIND)}


@contextlib.contextmanager
def parsing_once() -> Iterator[None]:
    """Let parsers use what is kept."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.multiple(ArgumentParser, **METHODS))
        for module, find in FINDING.items():
            stack.enter_context(mock.patch.object(module, FIND, find))
        yield


@contextlib.contextmanager
def parsed_once() -> Iterator[None]:
    """Let command lines use what is kept, once their parsers are whole."""
    with mock.patch.object(CommandLine, "parse_arguments", parsing_once()(CommandLine.parse_arguments)):
        yield
