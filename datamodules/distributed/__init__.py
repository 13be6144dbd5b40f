"""Collective operations over the ranks of a run."""
