"""Diffusion models: training, fine-tuning, sampling, and use for other tasks."""
