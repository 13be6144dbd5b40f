"""FID, KID and IS, which measure the quality of images from any generative module or from folders."""

from typing import TYPE_CHECKING

from callbacks.late_imports import imported_late

if TYPE_CHECKING:
    from callbacks.generation.fid import FID as FID

__all__ = ["FID"]

__getattr__ = imported_late(__name__, {"FID": "fid"})
