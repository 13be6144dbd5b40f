"""Callbacks that guard every run: seeds for each batch, sanity checks before training, and checks for finite losses."""

from callbacks.guards.finite_loss import Divergence, FiniteLoss
from callbacks.guards.sanity_checks import SanityChecks
from callbacks.guards.seeding import SeedEveryBatch

__all__ = ["Divergence", "FiniteLoss", "SanityChecks", "SeedEveryBatch"]
