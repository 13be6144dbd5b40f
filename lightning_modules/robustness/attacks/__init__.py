"""Adversarial attacks on classifiers: PGD, AutoAttack, and minimal-norm attacks."""

from lightning_modules.robustness.attacks.ascent import PGD
from lightning_modules.robustness.attacks.auto_attack import AutoAttack
from lightning_modules.robustness.attacks.minimal import CarliniWagner, DeepFool

__all__ = ["PGD", "AutoAttack", "CarliniWagner", "DeepFool"]
