"""Judging the labels that a network was trained on by its own predictions."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from callbacks.labels.memorization import Memorization as Memorization
    from callbacks.labels.report import LabelReport as LabelReport

__all__ = ["LabelReport", "Memorization"]


def __getattr__(name: str) -> Any:
    """Import a callback where it is asked for, as the subcommands of this folder need no Lightning."""
    if name == "Memorization":
        from callbacks.labels.memorization import Memorization

        return Memorization
    if name == "LabelReport":
        from callbacks.labels.report import LabelReport

        return LabelReport
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
