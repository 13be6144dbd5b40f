"""Options of a run: checks against the module, and changes to it before training."""
