"""Probabilistic models of densities, processes, graphs and sequences, learned from tabular data."""
