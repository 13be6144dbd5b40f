"""Callbacks that guard every run: they seed batches, check settings before training, and stop at non-finite losses."""

from callbacks.guards.finite_loss import Divergence, FiniteLoss
from callbacks.guards.sanity_checks import SanityChecks
from callbacks.guards.seeding import SeedEveryBatch

__all__ = ["Divergence", "FiniteLoss", "SanityChecks", "SeedEveryBatch"]
