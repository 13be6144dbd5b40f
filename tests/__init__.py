"""The folder structure of the tests mirrors that of the source tree."""

from time import monotonic

BEGAN = monotonic()
"""When the run began: before what the tests import."""
