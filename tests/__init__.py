"""The folder structure of the tests mirrors that of the source tree."""

from time import monotonic

BEGAN = monotonic()
"""Start time of the run, before the imports of the tests."""
