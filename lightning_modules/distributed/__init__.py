"""State and rows sharded over ranks."""
