"""Measure FID, KID, IS and the classes of generated images or folders, and draw grids of images for fixed prompts."""

from typing import TYPE_CHECKING

from callbacks.late_imports import imported_late

if TYPE_CHECKING:
    from callbacks.generation.class_accuracy import ClassAccuracy as ClassAccuracy
    from callbacks.generation.fid import FID as FID
    from callbacks.generation.prompt_grid import PromptGrid as PromptGrid

__all__ = ["FID", "ClassAccuracy", "PromptGrid"]

__getattr__ = imported_late(__name__, {"ClassAccuracy": "class_accuracy", "FID": "fid", "PromptGrid": "prompt_grid"})
