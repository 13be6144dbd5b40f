"""Datasets of image pairs for interpolation."""
