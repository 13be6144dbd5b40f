"""Batches in an order that depends on (seed, epoch) alone, and their augmentation on the device."""
