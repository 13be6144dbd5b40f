"""Keys and metrics of a search, as `tune` reads them from the command line."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.arguments import finite_number
from experiments.config_files import plain
from experiments.results import arrow
from experiments.run_request import RESERVED
from experiments.sweeps.variations import listed_values

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

FORMS = "KEY=log:LOW:HIGH, KEY=float:LOW:HIGH, KEY=int:LOW:HIGH or KEY=choice:VALUE,VALUE,..."


@dataclass(frozen=True)
class Search:
    """A configuration key, and the values to search.

    Args:
        key: dotted name of the key, or several names joined by +, which always have the same value.
        kind: `log`, `float`, `int` or `choice`.
        ends: smallest and largest value, or all choices, written as on the command line.
    """

    key: str
    kind: str
    ends: tuple[str, ...]

    @property
    def distribution(self) -> "BaseDistribution":
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.kind == "choice":
            return CategoricalDistribution(self.ends)
        low, high = map(float, self.ends)
        if self.kind == "int":
            return IntDistribution(int(low), int(high))
        return FloatDistribution(low, high, log=self.kind == "log")

    @property
    def count(self) -> float:
        """Number of different values."""
        if self.kind == "choice":
            return len(self.ends)
        return int(self.ends[1]) - int(self.ends[0]) + 1 if self.kind == "int" else float("inf")

    def text(self, value: Any) -> str:
        """Write a sampled value as on the command line. Numbers are rounded to six digits within the range."""
        if self.kind in ("choice", "int"):
            return str(value)
        low, high = map(float, self.ends)
        return repr(min(max(float(f"{value:.6g}"), low), high))

    def value(self, text: str) -> Any:
        """Parse a value that `text` has written.

        Raises:
            ValueError: if the value is not one of those to search.
        """
        if self.kind == "choice" and text in self.ends:
            return text
        number = finite_number(text) if self.kind != "choice" else None
        low, high = map(finite_number, self.ends[:2])
        if number is None or low is None or high is None or not low <= number <= high:
            raise ValueError(f"{self.key} {text} is not in {self.kind}:{':'.join(self.ends)}")
        return int(text) if self.kind == "int" else number

    def arguments(self, text: str) -> list[str]:
        """Return the command-line arguments that set the keys to a value."""
        return [part for key in self.key.split("+") for part in (f"--{key}", text)]


def parse_search(text: str) -> Search:
    """Parse a text of the form `KEY=log:LOW:HIGH`, `KEY=float:LOW:HIGH`, `KEY=int:LOW:HIGH` or `KEY=choice:A,B`."""
    key, _, rest = text.partition("=")
    kind, _, listed = rest.partition(":")
    keys = key.split("+")
    if not all(re.fullmatch(r"\w+(\.\w+)*", each) for each in keys) or kind not in ("log", "float", "int", "choice"):
        raise ValueError(f"--search {text} must be {FORMS}")
    for each in keys:
        if each in RESERVED:
            raise ValueError(f"--search cannot set {each}, which tune sets for each run")
    if kind == "choice":
        values = listed_values(listed)
        if len(set(values)) < max(2, len(values)):
            raise ValueError(f"--search {text} must have at least two different values")
        return Search(key, kind, values)
    ends = listed.split(":")
    low, high = (finite_number(each) for each in ends) if len(ends) == 2 else (None, None)
    if low is None or high is None or (kind == "int" and not all(re.fullmatch(r"-?\d+", each) for each in ends)):
        raise ValueError(f"--search {text} must be {FORMS}, with {'whole' if kind == 'int' else 'finite'} numbers")
    if low >= high:
        raise ValueError(f"--search {text}: the first number must be smaller than the second")
    if kind == "log" and low <= 0:
        raise ValueError(f"--search {text}: a range on a logarithmic scale must begin above 0; use float:{listed}")
    return Search(key, kind, (ends[0], ends[1]))


def check_keys(searches: list[Search]) -> None:
    """Check that no key is searched twice."""
    keys = [plain(key) for each in searches for key in each.key.split("+")]
    if repeated := next((key for i, key in enumerate(keys) if key in keys[:i]), None):
        raise ValueError(f"--search sets {repeated} twice; give its values in one --search")


@dataclass(frozen=True)
class Metric:
    """A metric, and whether larger (`max`) or smaller (`min`) values are better."""

    name: str
    mode: str

    @property
    def sign(self) -> float:
        return 1.0 if self.mode == "max" else -1.0

    @property
    def label(self) -> str:
        return f"{self.name} {'↑' if self.mode == 'max' else '↓'}"


def parse_metric(text: str) -> Metric:
    """Parse a text of the form `METRIC`, `METRIC:max` or `METRIC:min`; test metrics are rejected."""
    name, _, mode = text.partition(":")
    if "test/" in name:
        raise ValueError(
            f"--metric {name}: settings that are chosen by a test metric make the test useless; choose a validation "
            f"metric such as {name[name.index('test/') :].replace('test/', 'val/')}, and test the best settings once"
        )
    known = {"↑": "max", "↓": "min"}.get(arrow(name).strip(), "")
    if not name or (mode or known) not in ("max", "min"):
        reason = "must end in :max or :min" if mode else "has no known direction"
        raise ValueError(f"--metric {text} {reason}; write {name}:max if larger values are better, or {name}:min")
    return Metric(name, mode or known)
