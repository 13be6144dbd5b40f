"""Restoration of signals that are degraded by more than noise."""
