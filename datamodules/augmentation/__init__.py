"""Augmentation in readers and DataModules, and the geometry and colours that augmentation on the device shares."""
