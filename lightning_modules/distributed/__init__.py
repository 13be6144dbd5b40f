"""State and rows that are shared out over processes."""
