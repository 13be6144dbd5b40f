"""Reuse earlier parsing results of this process, because reading settings takes half of the time of a short run.

jsonargparse parses each nested class, and everything nested in it, several times. The cache key contains everything
that a result depends on: the parser, the values, the options, the state of jsonargparse, the active validation, and the
active import rules. Values that are not plain, or that may name files, are parsed again each time.
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any
from unittest import mock

from jsonargparse import ArgumentParser, Namespace

from experiments.calls.parse import Grammar
from experiments.lightning_internals import import_verdicts
from experiments.parsing.parser import Parser

KEPT: dict[Any, Any] = {}
VERDICTS: list[Any] = []
MODULES = [module for name, module in sys.modules.items() if name.partition(".")[0] == "jsonargparse"]
STATE = {id(each): each for module in MODULES for each in vars(module).values() if isinstance(each, ContextVar)}
FIND = "find_action_and_subcommand"
PLAIN = (bool, int, float, type(None))


class NotPlainError(Exception):
    """A value that cannot be part of a cache key."""


def key_of(value: Any, objects: bool = False) -> Any:
    """Build a hashable key from a value, its types and their order; `objects` allows other hashable objects."""
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
    """Copy namespaces, dicts and lists, because callers modify them."""
    kind = type(value)
    if kind is Namespace:
        new = Namespace()
        vars(new).update((key, copied(each)) for key, each in vars(value).items())
        return new
    if kind is dict:
        return {key: copied(each) for key, each in value.items()}
    return kind(map(copied, value)) if kind in (list, tuple) else value


def state() -> Any:
    """Return the state that parsing depends on in addition to its arguments."""
    verdicts = import_verdicts()
    if verdicts not in VERDICTS:
        VERDICTS.append(dict(verdicts))
    return VERDICTS.index(verdicts), Parser.validate, *(key_of(each.get(None), objects=True) for each in STATE.values())


def kept(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a parser method so that it returns a copy of its earlier result for the same arguments."""

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
    """Wrap the function that finds a parser's action for a key, and cache its results."""

    def find_again(parser: Any, key: str, exclude: Any = None) -> Any:
        place = FIND, parser, len(parser._actions), key, exclude
        if place not in KEPT:
            KEPT[place] = find(parser, key, exclude=exclude)
        return KEPT[place]

    return find_again


METHODS = {name: kept(getattr(ArgumentParser, name)) for name in ("parse_object", "get_defaults")}
FINDING = {module: found_once(getattr(module, FIND)) for module in MODULES if FIND in vars(module)}


@contextlib.contextmanager
def parsing_once() -> Iterator[None]:
    """Use the cached results in all parsers."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.multiple(ArgumentParser, **METHODS))
        for module, find in FINDING.items():
            stack.enter_context(mock.patch.object(module, FIND, find))
        yield


@contextlib.contextmanager
def parsed_once() -> Iterator[None]:
    """Make command lines use cached parsing results, once their parsers have been built completely."""
    with mock.patch.object(Grammar, "resolve", parsing_once()(Grammar.resolve)):
        yield
