"""Guards of every run: seeds, contracts of batches, and finite losses."""

from callbacks.guards.contracts import Contracts
from callbacks.guards.finite_loss import FiniteLoss
from callbacks.guards.seeding import SeedEveryBatch

__all__ = ["Contracts", "FiniteLoss", "SeedEveryBatch"]
