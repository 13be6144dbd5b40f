"""Sharded state of models and samples, and gathering of batch rows from all ranks."""
