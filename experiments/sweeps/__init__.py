"""Sweeps of configuration keys: their values, figures and fitted power laws."""
