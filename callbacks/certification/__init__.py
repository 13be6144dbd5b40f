"""Certified radii of smoothed classifiers: the callback, its log, its curves."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from callbacks.certification.certify import Certification as Certification

__all__ = ["Certification"]


def __getattr__(name: str) -> Any:
    """Import a callback where it is asked for, as the subcommands of this folder need no Lightning."""
    if name == "Certification":
        from callbacks.certification.certify import Certification

        return Certification
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
