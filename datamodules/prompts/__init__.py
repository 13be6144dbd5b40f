"""Datasets of captioned images, of prompts and of noise pairs, for text-to-image and unconditional models."""
