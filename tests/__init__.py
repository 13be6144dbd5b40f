"""Tests mirror the tree."""

from time import monotonic

BEGAN = monotonic()
"""When the run began: before what the tests import."""
