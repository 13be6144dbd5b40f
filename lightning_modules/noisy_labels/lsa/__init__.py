"""Linear separation alternating (LSA): PLS, PLS-LSA and PLS-LSA+."""

from lightning_modules.noisy_labels.lsa.pls_lsa import PLSLSA
from lightning_modules.noisy_labels.lsa.pls_lsa_plus import PLSLSAPlus

__all__ = ["PLSLSA", "PLSLSAPlus"]
