"""Sequences of observations at equal time intervals: synthetic paths with known truth, or video frames."""
