"""Restoration of signals with degradations other than noise alone."""
