"""Optimisation whose gradients, measurements or evaluations are noisy, corrupted or falsified."""
