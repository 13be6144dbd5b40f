"""Data for image restoration: noisy images with or without clean images, as whole images or patches."""
