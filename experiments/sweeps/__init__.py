"""Keys over several values: what is asked for, and what the runs show of it."""
