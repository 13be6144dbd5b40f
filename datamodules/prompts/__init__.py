"""Datasets of images with captions, prompts and noise pairs, for text-to-image and unconditional models."""
