"""Range checks of arguments.

Every message names the argument, the allowed values and the given value.
"""

import inspect
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal


def at_least(least: float, **arguments: float | None) -> None:
    """Reject arguments below a bound.

    None is accepted.

    Raises:
        ValueError: if an argument is invalid. The message names the argument.
    """
    for key, value in arguments.items():
        if value is not None and not value >= least:
            raise ValueError(f"{key} must be at least {least}, got {value}")


def positive(**arguments: float | None) -> None:
    """Reject arguments that are not positive.

    None is accepted.

    Raises:
        ValueError: if an argument is invalid. The message names the argument.
    """
    for key, value in arguments.items():
        if value is not None and not value > 0:
            raise ValueError(f"{key} must be positive, got {value}")


def within(
    low: float, high: float, bounds: Literal["[]", "[)", "(]", "()"] = "[]", /, **arguments: float | None
) -> None:
    """Reject arguments outside an interval.

    None is accepted.

    Args:
        low: lower end.
        high: upper end.
        bounds: brackets of the interval: `[` and `]` include an end, `(` and `)` exclude it.
        arguments: values to check, by argument name.

    Raises:
        ValueError: if an argument is outside the interval. The message names the argument and the interval.
    """
    for key, value in arguments.items():
        if value is None:
            continue
        above = value >= low if bounds[0] == "[" else value > low
        below = value <= high if bounds[1] == "]" else value < high
        if not (above and below):
            raise ValueError(f"{key} must be in {bounds[0]}{low}, {high}{bounds[1]}, got {value}")


def ascending(
    low: float, high: float = math.inf, bounds: Literal["[]", "[)", "(]", "()"] = "[]", /, **ranges: Sequence[float]
) -> None:
    """Reject ranges that are not two numbers in ascending order inside an interval, whose ends are as in `within`.

    Raises:
        ValueError: if a range is not of this form. The message names the argument.
    """
    for key, ends in ranges.items():
        if len(ends) != 2 or not ends[0] <= ends[1]:
            raise ValueError(f"{key} must be two numbers, the lower first, got {list(ends)}")
        for end in ends:
            within(low, high, bounds, **{key: end})


def one_of(allowed: Collection[Any], **arguments: Any) -> None:
    """Reject arguments that are not among the allowed values.

    Raises:
        ValueError: if a value is not allowed. The message names the argument and the allowed values.
    """
    for key, value in arguments.items():
        if value not in allowed:
            raise ValueError(f"{key} must be one of {', '.join(map(str, allowed))}, got {value!r}")


def only_with(mode: str, chosen: bool, owner: Callable[..., Any], /, **arguments: Any) -> None:
    """Reject arguments that differ from their defaults but have no effect in the current mode.

    Args:
        mode: description of the mode in which the arguments have an effect, for the error message.
        chosen: whether this mode is active. If it is active, all values are accepted.
        owner: class or function that defines the defaults.
        arguments: values to check, by argument name; a name with dots ends in the argument of `owner`.

    Raises:
        ValueError: if an argument has no effect. The message names the argument, its value and the mode.
    """
    defaults = inspect.signature(owner).parameters
    for key, value in () if chosen else arguments.items():
        default = defaults[key.rpartition(".")[2]].default
        if value != default and not (isinstance(default, tuple) and value == list(default)):  # YAML values are lists
            raise ValueError(f"{key} is used only with {mode}: leave it at {default}, got {value}")
