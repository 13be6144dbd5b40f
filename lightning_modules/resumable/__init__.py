"""Work of hours, shared by files between processes and continued after an interruption."""
