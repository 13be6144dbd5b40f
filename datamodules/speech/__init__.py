"""Datasets of noisy and clean speech recordings, and their DataModule."""
