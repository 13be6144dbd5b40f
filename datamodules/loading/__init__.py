"""Batches whose order depends only on (seed, epoch), and augmentation on the device."""
