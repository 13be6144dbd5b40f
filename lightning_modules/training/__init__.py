"""Pieces of a training step: what a classifier or a segmenter measures, optimizers, schedules, parameter groups."""
