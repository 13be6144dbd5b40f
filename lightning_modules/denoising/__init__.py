"""Denoising methods that learn without clean images."""
