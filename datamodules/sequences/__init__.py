"""Sequences: observations at equal distances in time, of paths that are drawn with their truth, or frames of videos."""
