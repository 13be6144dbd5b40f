"""Augmentation on the host and on the device; both use the same code for geometry and colours."""
