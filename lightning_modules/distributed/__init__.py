"""State of models and samples that is sharded over ranks, and gathered batch rows."""
