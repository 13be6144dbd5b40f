"""Optimisation from gradients, measurements or function values that are noisy, corrupted or falsified."""
