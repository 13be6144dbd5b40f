"""Augmentation on the host and on the device.

Both use the same code for geometry and colours.
"""
