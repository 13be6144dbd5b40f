"""Diffusion processes in continuous and discrete time, samplers of these processes, and exact scores."""
