"""Efficiency: what training keeps, computes and writes when memory and arithmetic are short."""
