"""Leaderboards: one table a field, with all methods and simple baselines on the same data under one protocol."""
