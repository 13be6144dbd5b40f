"""Checkpoints, metrics and stop signals of a run, so that it can resume from any point."""
