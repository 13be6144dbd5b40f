"""Optimisation with noisy, corrupted or falsified gradients, measurements or evaluations."""
