"""Helpers for callbacks with long tests: single images of the test set, and a directory for results."""
