"""Trainer options: rejection of options that a module does not support, and compilation of its network."""
