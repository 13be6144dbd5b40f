"""Optimisation with gradients, measurements or function evaluations that are noisy, corrupted or falsified."""
