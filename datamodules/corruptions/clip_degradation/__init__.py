"""Degradations of clips, composed of operators whose parameters walk a little from frame to frame."""

from datamodules.corruptions.clip_degradation.chain import Chain, InRandomOrder
from datamodules.corruptions.clip_degradation.noise import RandomNoise
from datamodules.corruptions.clip_degradation.resizing import ResizeToEnd

__all__ = ["Chain", "InRandomOrder", "RandomNoise", "ResizeToEnd"]
