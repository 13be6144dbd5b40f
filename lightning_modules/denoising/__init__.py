"""Denoising that is learned without clean images."""
