"""Sharding of models and of per-sample state over ranks, and gathering of batch rows from all ranks."""
