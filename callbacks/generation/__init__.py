"""Quality of generated images: FID, KID and IS of any module that draws images, and of folders."""

from callbacks.generation.fid import FID

__all__ = ["FID"]
