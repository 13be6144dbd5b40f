"""Directed acyclic graphs with observations of their nodes, synthetic or recorded.

W[i, j] weights edge i -> j.
"""
