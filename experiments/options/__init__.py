"""Options of a run: what is refused for a module, and what is done to it before training."""
