"""Trainer options: reject options that a module does not support, and compile its network."""
