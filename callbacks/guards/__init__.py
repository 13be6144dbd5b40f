"""Guards of every run: seeds of batches, contracts between its parts, and finite losses."""

from callbacks.guards.finite_loss import Divergence, FiniteLoss
from callbacks.guards.sanity_checks import SanityChecks
from callbacks.guards.seeding import SeedEveryBatch

__all__ = ["Divergence", "FiniteLoss", "SanityChecks", "SeedEveryBatch"]
