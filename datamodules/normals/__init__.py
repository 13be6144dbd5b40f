"""Datasets of images with surface normals, and their DataModule."""
