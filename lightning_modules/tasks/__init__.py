"""Base classes of classifiers, segmenters and restorers, with their steps, metrics and prediction writers."""
