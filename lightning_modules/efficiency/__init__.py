"""Efficiency: training with less memory, arithmetic and precision."""
