"""Quality of generated images: FID, KID and IS of any module that draws images, and of folders."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from callbacks.generation.fid import FID as FID

__all__ = ["FID"]


def __getattr__(name: str) -> Any:
    """Import a callback where it is asked for, as the subcommands of this folder need no Lightning."""
    if name == "FID":
        from callbacks.generation.fid import FID

        return FID
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
