"""Guards of every run: seeds of batches, contracts between its parts, and finite losses."""

from callbacks.guards.contracts import Contracts
from callbacks.guards.finite_loss import Divergence, FiniteLoss
from callbacks.guards.seeding import SeedEveryBatch

__all__ = ["Contracts", "Divergence", "FiniteLoss", "SeedEveryBatch"]
