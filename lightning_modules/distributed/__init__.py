"""Sharding the state of models and samples over ranks, and gathering batch rows from all ranks."""
