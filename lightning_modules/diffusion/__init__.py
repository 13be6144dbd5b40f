"""Diffusion models: trained, fine-tuned, sampled, and used for other tasks."""
