"""Checkpoints, metrics and stop signals of a run, which let it resume from any point."""
