"""Optimizers, learning-rate schedules, parameter groups and moving averages of weights."""
