"""Dual randomised smoothing: two half-images are smoothed by themselves, in half as many dimensions."""

from lightning_modules.robustness.drs.module import DRS

__all__ = ["DRS"]
