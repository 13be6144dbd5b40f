"""Sequences of observations at equal time intervals: synthetic paths with known ground truth, or frames of videos."""
