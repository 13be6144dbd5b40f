"""State of models and samples that is sharded over ranks, and gathering of batch rows from all ranks."""
