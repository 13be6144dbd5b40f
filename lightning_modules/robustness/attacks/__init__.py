"""Attacks on classifiers: ascent in a ball, AutoAttack, and the smallest perturbation that is found."""

from lightning_modules.robustness.attacks.ascent import PGD
from lightning_modules.robustness.attacks.auto_attack import AutoAttack
from lightning_modules.robustness.attacks.minimal import CarliniWagner, DeepFool

__all__ = ["PGD", "AutoAttack", "CarliniWagner", "DeepFool"]
