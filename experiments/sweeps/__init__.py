"""Sweeps over values of configuration keys: variations, figures and fitted power laws."""
