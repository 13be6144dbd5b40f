"""Diffusion processes in continuous and discrete time, their samplers, and exact scores."""
