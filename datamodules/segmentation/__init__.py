"""Datasets and DataModules for semantic segmentation: images with one label per pixel."""
