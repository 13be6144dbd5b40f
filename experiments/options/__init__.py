"""Trainer options: checks against the module, and compilation of its network."""
