"""Augmentation on the host and on the device, with shared code for geometry and colours."""
