"""Guards of every run: batch seeds, sanity checks before training, and finite losses."""

from callbacks.guards.finite_loss import Divergence, FiniteLoss
from callbacks.guards.sanity_checks import SanityChecks
from callbacks.guards.seeding import SeedEveryBatch

__all__ = ["Divergence", "FiniteLoss", "SanityChecks", "SeedEveryBatch"]
