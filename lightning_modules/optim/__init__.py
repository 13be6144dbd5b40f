"""Optimizers, learning-rate schedules, parameter groups and weight averages."""
