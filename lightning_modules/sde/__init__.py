"""Diffusion of data to noise and back, in continuous and in discrete time: processes, samplers, exact scores."""
