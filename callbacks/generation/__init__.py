"""FID, KID and IS, which measure the quality of images from any generative module or from folders, and grids of images
for fixed prompts."""

from typing import TYPE_CHECKING

from callbacks.late_imports import imported_late

if TYPE_CHECKING:
    from callbacks.generation.fid import FID as FID
    from callbacks.generation.prompt_grid import PromptGrid as PromptGrid

__all__ = ["FID", "PromptGrid"]

__getattr__ = imported_late(__name__, {"FID": "fid", "PromptGrid": "prompt_grid"})
