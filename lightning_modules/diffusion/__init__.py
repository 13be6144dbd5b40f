"""Diffusion models: training, fine-tuning, sampling, and applications to other tasks."""
