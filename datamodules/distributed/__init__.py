"""Collectives over the ranks of a run."""
