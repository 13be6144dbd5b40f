"""Bases of classifiers, segmenters and restorers: their steps, metrics and writers of predictions."""
