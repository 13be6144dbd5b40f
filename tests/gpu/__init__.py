"""Measurements that need a GPU: `make gpu`, or `pytest -m gpu --override-ini addopts=-ra tests/gpu`."""
