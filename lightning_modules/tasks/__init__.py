"""Base classes of classifiers, segmenters and restorers: their steps, metrics and prediction writers."""
