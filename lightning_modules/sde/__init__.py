"""Diffusion processes in continuous and discrete time: processes, samplers, exact scores."""
