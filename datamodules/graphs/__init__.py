"""Directed acyclic graphs with observations of their nodes, synthetic or recorded.

W[i, j] is the weight of edge i -> j.
"""
