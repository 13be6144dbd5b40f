"""Recordings of speech, noisy and clean."""
