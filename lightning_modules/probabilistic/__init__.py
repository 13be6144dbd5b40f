"""Probabilistic methods that learn densities, stochastic processes, graphs and sequences from tabular data."""
