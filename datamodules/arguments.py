"""Range checks of arguments, with one wording: the argument's name, what is allowed and what was given."""

import inspect
from collections.abc import Callable, Collection
from typing import Any, Literal


def at_least(least: float, **arguments: float | None) -> None:
    """Refuse arguments that are below a bound; None passes.

    Raises:
        ValueError: names the argument.
    """
    for key, value in arguments.items():
        if value is not None and not value >= least:
            raise ValueError(f"{key} must be at least {least}, got {value}")


def positive(**arguments: float | None) -> None:
    """Refuse arguments that are not above zero; None passes.

    Raises:
        ValueError: names the argument.
    """
    for key, value in arguments.items():
        if value is not None and not value > 0:
            raise ValueError(f"{key} must be positive, got {value}")


def within(
    low: float, high: float, bounds: Literal["[]", "[)", "(]", "()"] = "[]", /, **arguments: float | None
) -> None:
    """Refuse arguments outside an interval; None passes.

    Args:
        low: lower end.
        high: upper end.
        bounds: whether each end belongs to the interval: `[` and `]` if it does, `(` and `)` if not.
        arguments: values by the names that the message gives them.

    Raises:
        ValueError: names the argument and the interval.
    """
    for key, value in arguments.items():
        if value is None:
            continue
        above = value >= low if bounds[0] == "[" else value > low
        below = value <= high if bounds[1] == "]" else value < high
        if not (above and below):
            raise ValueError(f"{key} must be in {bounds[0]}{low}, {high}{bounds[1]}, got {value}")


def one_of(allowed: Collection[Any], **arguments: Any) -> None:
    """Refuse arguments that are not among some values.

    Raises:
        ValueError: names the argument and the values.
    """
    for key, value in arguments.items():
        if value not in allowed:
            raise ValueError(f"{key} must be one of {', '.join(map(str, allowed))}, got {value!r}")


def only_with(mode: str, chosen: bool, owner: Callable[..., Any], /, **arguments: Any) -> None:
    """Reject arguments that are away from their defaults where nothing reads them.

    Args:
        mode: what reads them, as the message names it: an argument and its value.
        chosen: whether that is chosen; then everything passes.
        owner: class or function whose defaults count.
        arguments: values by the names that `owner` gives them.

    Raises:
        ValueError: names the argument, its value and the mode.
    """
    defaults = inspect.signature(owner).parameters
    for key, value in () if chosen else arguments.items():
        default = defaults[key].default
        if value != default and not (isinstance(default, tuple) and value == list(default)):  # as a YAML gives it
            raise ValueError(f"{key} is read with {mode} alone: leave it at {default}, got {value}")
