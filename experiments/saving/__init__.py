"""Checkpoints, metrics and stop signals of a run, so that it can be resumed from any point."""
