"""Diffusion processes in continuous and discrete time, samplers for these processes, and exact likelihoods."""
